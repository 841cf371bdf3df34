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
  package private(set) var members: [Member] = []
  package private(set) var runs: [Run] = []
  package private(set) var elements = 0
  package var bytes: Int { elements * MemoryLayout<Float>.size }

  init(index: Int, owner: Int) {
    self.index = index
    self.owner = owner
  }

  mutating func append(_ member: Member) {
    var member = member
    member.packedOffset = elements
    members.append(member)
    if let last = runs.last, last.flatOffset + last.count == member.flatOffset {
      runs[runs.count - 1].count += member.count
    } else {
      runs.append(Run(flatOffset: member.flatOffset, packedOffset: elements, count: member.count))
    }
    elements += member.count
  }

  /// Every owner's buckets, in order of the tensor index, cut without regard to where tensors end.
  static func plan(spans: [TensorSpan], owners: [Int], replicas: Int, size: BucketSize) -> [[Bucket]] {
    let capacity = max(1, size.bytes / MemoryLayout<Float>.size)
    var result: [[Bucket]] = []
    var next = 0
    for owner in 0..<replicas {
      var buckets: [Bucket] = []
      var ownedPosition = 0
      for (tensor, span) in spans.enumerated() where owners[tensor] == owner {
        var done = 0
        while done < span.count {
          if buckets.last.map({ $0.elements == capacity }) ?? true {
            buckets.append(Bucket(index: next, owner: owner))
            next += 1
          }
          let count = min(span.count - done, capacity - buckets[buckets.count - 1].elements)
          buckets[buckets.count - 1].append(
            Member(
              tensor: tensor, ownedPosition: ownedPosition, tensorOffset: done, packedOffset: 0,
              flatOffset: span.offset + done, count: count))
          done += count
        }
        ownedPosition += 1
      }
      result.append(buckets)
    }
    return result
  }
}

/// How much travels in one frame. All replicas use the same.
package struct BucketSize: Hashable, Sendable {
  /// Large enough that a frame is worth its message, small enough that sending, adding and receiving overlap
  /// and that a bucket stays in the caches on its way.
  package var bytes: Int
  package init(bytes: Int = 4 << 20) { self.bytes = bytes }
}
