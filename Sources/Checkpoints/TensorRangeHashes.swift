import Digests

/// SHA-256 of several ranges of one file, fed by its bytes in ascending order in one pass.
struct TensorRangeHashes: ~Copyable {
  private let ranges: [(path: String, bytes: Range<UInt64>)]
  private var current = 0
  private var hash = SHA256()
  private var finished: [String: String] = [:]

  /// - Precondition: the ranges do not overlap (see ``overlap(_:)``).
  init(_ ranges: [(path: String, bytes: Range<UInt64>)]) {
    // Empty ranges may share their place with another one: they go first.
    self.ranges = ranges.sorted {
      ($0.bytes.lowerBound, $0.bytes.upperBound) < ($1.bytes.lowerBound, $1.bytes.upperBound)
    }
  }

  /// A path whose bytes another one has too, nil when there is none.
  static func overlap(_ ranges: [(path: String, bytes: Range<UInt64>)]) -> String? {
    var end: UInt64 = 0
    for range in ranges.sorted(by: { $0.bytes.lowerBound < $1.bytes.lowerBound }) where !range.bytes.isEmpty {
      if range.bytes.lowerBound < end { return range.path }
      end = range.bytes.upperBound
    }
    return nil
  }

  mutating func update(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) {
    let slice = offset..<offset + UInt64(bytes.count)
    while current < ranges.count {
      let range = ranges[current].bytes
      let common = range.clamped(to: slice)
      if !common.isEmpty {
        hash.update(
          UnsafeRawBufferPointer(rebasing: bytes[Int(common.lowerBound - offset)..<Int(common.upperBound - offset)]))
      }
      guard range.upperBound <= slice.upperBound else { return }
      next()
    }
  }

  /// Hexadecimal hashes by path; ranges that the file ended before have that of the bytes there were.
  consuming func finish() -> [String: String] {
    while current < ranges.count { next() }
    return finished
  }

  private mutating func next() {
    var complete = SHA256()
    swap(&complete, &hash)
    finished[ranges[current].path] = complete.finish().hexadecimal
    current += 1
  }
}
