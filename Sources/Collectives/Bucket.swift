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
  /// One tensor: its place in the owner's list of owned tensors.
  struct Member: Hashable, Sendable {
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

  init(index: Int, owner: Int) {
    self.index = index
    self.owner = owner
  }

  mutating func append(_ span: TensorSpan, ownedPosition: Int) {
    members.append(
      Member(ownedPosition: ownedPosition, packedOffset: elements, flatOffset: span.offset, count: span.count))
    if let last = runs.last, last.flatOffset + last.count == span.offset {
      runs[runs.count - 1].count += span.count
    } else {
      runs.append(Run(flatOffset: span.offset, packedOffset: elements, count: span.count))
    }
    elements += span.count
  }

  /// Every owner's buckets, in order of the tensor index.
  static func plan(spans: [TensorSpan], owners: [Int], replicas: Int, size: BucketSize) -> [[Bucket]] {
    let elementBytes = MemoryLayout<Float>.size
    var result: [[Bucket]] = []
    var next = 0
    for owner in 0..<replicas {
      var buckets: [Bucket] = []
      var current: Bucket?
      func close() {
        if let bucket = current { buckets.append(bucket) }
        current = nil
      }
      var ownedPosition = 0
      for (tensor, span) in spans.enumerated() where owners[tensor] == owner {
        if let bucket = current, (bucket.elements + span.count) * elementBytes > size.limitBytes { close() }
        if current == nil {
          current = Bucket(index: next, owner: owner)
          next += 1
        }
        current?.append(span, ownedPosition: ownedPosition)
        ownedPosition += 1
        if let bucket = current, bucket.elements * elementBytes >= size.fullBytes { close() }
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
  package init(fullBytes: Int = 4 << 20, limitBytes: Int = 16 << 20) {
    self.fullBytes = fullBytes
    self.limitBytes = limitBytes
  }
}
