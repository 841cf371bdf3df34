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

/// Whole tensors of one owner that travel as one frame, packed one after the other.
struct Bucket: Hashable, Sendable {
  /// A stretch that is contiguous both in the flat tensor and in the frame.
  struct Run: Hashable, Sendable {
    var flatOffset: Int
    var packedOffset: Int
    var count: Int
  }
  /// One tensor: its number in the stage, and its place in the owner's list of owned tensors.
  struct Member: Hashable, Sendable {
    var tensor: Int
    var ownedPosition: Int
    var packedOffset: Int
    var flatOffset: Int
    var count: Int
  }
  /// Number in the stage, the same on every replica: the `part` of its frames.
  let index: Int
  let owner: Int
  private(set) var members: [Member] = []
  private(set) var runs: [Run] = []
  private(set) var elements = 0

  /// - Parameter tensors: the owner's tensors of this bucket, ascending.
  init(index: Int, owner: Int, tensors: [(tensor: Int, ownedPosition: Int, span: TensorSpan)]) {
    self.index = index
    self.owner = owner
    for (tensor, ownedPosition, span) in tensors {
      members.append(
        Member(
          tensor: tensor, ownedPosition: ownedPosition, packedOffset: elements, flatOffset: span.offset,
          count: span.count))
      if let last = runs.last, last.flatOffset + last.count == span.offset {
        runs[runs.count - 1].count += span.count
      } else {
        runs.append(Run(flatOffset: span.offset, packedOffset: elements, count: span.count))
      }
      elements += span.count
    }
  }

  /// Every owner's buckets, from the last tensor to the first: the order in which a backward pass finishes
  /// gradients, so that the first buckets leave while it still runs.
  static func plan(spans: [TensorSpan], owners: [Int], replicas: Int, size: BucketSize) -> [[Bucket]] {
    let elementBytes = MemoryLayout<Float>.size
    var result: [[Bucket]] = []
    var next = 0
    for owner in 0..<replicas {
      let owned = spans.indices.filter { owners[$0] == owner }
      var buckets: [Bucket] = []
      var current: [(tensor: Int, ownedPosition: Int, span: TensorSpan)] = []
      var elements = 0
      func close() {
        if current.isEmpty { return }
        buckets.append(Bucket(index: next, owner: owner, tensors: current.reversed()))
        next += 1
        current = []
        elements = 0
      }
      for (ownedPosition, tensor) in owned.enumerated().reversed() {
        let span = spans[tensor]
        if (elements + span.count) * elementBytes > size.limitBytes { close() }
        current.append((tensor, ownedPosition, span))
        elements += span.count
        if elements * elementBytes >= size.fullBytes { close() }
      }
      close()
      result.append(buckets)
    }
    return result
  }
}

/// How many tensors share a frame. All replicas use the same.
package struct BucketSize: Hashable, Sendable {
  /// A bucket is closed once it has this much, so that frames are worth their round trip ...
  package var fullBytes: Int
  /// ... and before it has more than this, so that sending, adding and receiving overlap; a larger tensor is
  /// a bucket of its own.
  package var limitBytes: Int
  /// What a replica may have sent of rounds that it has not summed itself: bounds what is on the way.
  package var windowBytes: Int
  package init(fullBytes: Int = 4 << 20, limitBytes: Int = 16 << 20, windowBytes: Int = 64 << 20) {
    self.fullBytes = fullBytes
    self.limitBytes = limitBytes
    self.windowBytes = windowBytes
  }
}
