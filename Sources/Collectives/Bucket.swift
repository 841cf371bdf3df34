/// Where a tensor lies in a stage's flat float32 tensors.
public struct TensorSpan: Hashable, Sendable {
  /// First element.
  public var offset: Int
  /// Elements.
  public var count: Int
  public init(offset: Int, count: Int) {
    self.offset = offset
    self.count = count
  }
}

/// Elements of one owner's tensors that travel as one frame, packed one after the other.
package struct Bucket: Hashable, Sendable {
  /// A stretch that is contiguous both in the flat tensor and in the frame.
  package struct Run: Hashable, Sendable {
    package var flatOffset: Int
    package var packedOffset: Int
    package var count: Int
  }
  /// A tensor, or a part of one that does not fit into a bucket.
  package struct Member: Hashable, Sendable {
    /// Index of the tensor among the stage's.
    package var tensor: Int
    /// Place in the owner's list of owned tensors.
    package var ownedPosition: Int
    /// First element in the tensor, in the frame, and in the flat tensor.
    package var tensorOffset: Int
    package var packedOffset: Int
    package var flatOffset: Int
    package var count: Int
  }
  /// Number in the stage, the same on every replica: the `part` of its frames.
  package let index: Int
  package let owner: Int
  /// Ascending in the flat tensor.
  package private(set) var members: [Member] = []
  package private(set) var runs: [Run] = []
  package private(set) var elements = 0
  package var bytes: Int { elements * MemoryLayout<Float>.size }

  /// - Parameter members: ascending; their packed offsets are set here.
  init(index: Int, owner: Int, members: [Member]) {
    self.index = index
    self.owner = owner
    for var member in members {
      member.packedOffset = elements
      self.members.append(member)
      if let last = runs.last, last.flatOffset + last.count == member.flatOffset {
        runs[runs.count - 1].count += member.count
      } else {
        runs.append(Run(flatOffset: member.flatOffset, packedOffset: elements, count: member.count))
      }
      elements += member.count
    }
  }

  /// Every owner's buckets, cut without regard to where tensors end, from the last element to the first: the
  /// order in which a backward pass finishes gradients, so that the first buckets leave while it still runs.
  static func plan(spans: [TensorSpan], owners: [Int], replicas: Int, size: BucketSize) -> [[Bucket]] {
    let capacity = max(1, size.bytes / MemoryLayout<Float>.size)
    var result: [[Bucket]] = []
    var next = 0
    for owner in 0..<replicas {
      var buckets: [Bucket] = []
      var descending: [Member] = []
      var room = capacity
      func close() {
        if descending.isEmpty { return }
        buckets.append(Bucket(index: next, owner: owner, members: descending.reversed()))
        next += 1
        descending = []
        room = capacity
      }
      let owned = spans.indices.filter { owners[$0] == owner }
      for (ownedPosition, tensor) in owned.enumerated().reversed() {
        var left = spans[tensor].count
        while left > 0 {
          let count = min(left, room)
          left -= count
          descending.append(
            Member(
              tensor: tensor, ownedPosition: ownedPosition, tensorOffset: left, packedOffset: 0,
              flatOffset: spans[tensor].offset + left, count: count))
          room -= count
          if room == 0 { close() }
        }
      }
      close()
      result.append(buckets)
    }
    return result
  }
}

/// How much travels in one frame, and how much at once. All replicas use the same.
package struct BucketSize: Hashable, Sendable {
  /// Large enough that a frame is worth its message, small enough that sending, adding and receiving overlap
  /// and that a bucket stays in the caches on its way.
  package var bytes: Int
  /// What a replica may have sent of rounds that it has not summed itself: bounds what is on the way.
  package var windowBytes: Int
  package init(bytes: Int = 4 << 20, windowBytes: Int = 64 << 20) {
    self.bytes = bytes
    self.windowBytes = windowBytes
  }
}
