/// Positions of the sample stream that no step consumes, ever.
///
/// Steps take the stream in order, `perStep` consecutive positions each. A skipped range lies wholly between two
/// steps: it begins where a step would begin, and that step begins after it instead:
///
/// ```
/// perStep 8, skipped [8, 16)       0        8        16       24       32
///                                  | step 0 | skipped | step 1 | step 2 |
/// ```
///
/// So which samples a step has is a pure function of (step, skips), and a skip never changes what an earlier step
/// had: ranges are added at the stream's end alone, before the first step that is not committed. Ranges that touch
/// are one range: equal values skip the same positions.
public struct SkippedSamples: Hashable, Sendable {
  /// Ascending; none is empty, none touches another.
  public private(set) var ranges: [Range<UInt64>]

  /// Nothing is skipped.
  public init() { ranges = [] }

  /// - Parameters:
  ///   - ranges: in any order.
  ///   - perStep: samples of one step.
  /// - Throws: ``SkippedSamplesError`` for a range that is empty, overlaps another or begins inside a step.
  public init(_ ranges: [Range<UInt64>], perStep: UInt64) throws(SkippedSamplesError) {
    self.init()
    for range in ranges.sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) }) {
      try insert(range, perStep: perStep)
    }
  }

  public var isEmpty: Bool { ranges.isEmpty }
  /// How many positions are skipped.
  public var count: UInt64 { ranges.reduce(0) { $0 + ($1.upperBound - $1.lowerBound) } }

  /// The positions that a step consumes.
  public func samples(step: Step, perStep: UInt64) -> Range<UInt64> {
    var first = step * perStep
    for range in ranges {
      guard range.lowerBound <= first else { break }
      first += range.upperBound - range.lowerBound
    }
    return first..<first + perStep
  }

  /// The first position that is not in the state after `step` steps: where a checkpoint of that state stands.
  ///
  /// A range that is skipped right there is not counted: it may be found bad after the checkpoint was written, and
  /// must not make it wrong.
  public func nextSample(_ step: Step, perStep: UInt64) -> UInt64 {
    step == 0 ? 0 : samples(step: step - 1, perStep: perStep).upperBound
  }

  /// Skips one more range.
  ///
  /// - Throws: ``SkippedSamplesError``; nothing is changed then.
  public mutating func insert(_ range: Range<UInt64>, perStep: UInt64) throws(SkippedSamplesError) {
    guard !range.isEmpty else { throw .empty(at: range.lowerBound) }
    if let last = ranges.last, range.lowerBound < last.upperBound {
      if let other = ranges.first(where: { $0.overlaps(range) }) { throw .overlaps(range, other) }
      // Steps after it were laid out without it.
      throw .beforeAnother(range, last)
    }
    let boundary = (ranges.last?.upperBound ?? 0)
    guard (range.lowerBound - boundary).isMultiple(of: perStep) else { throw .insideStep(range, perStep: perStep) }
    if let last = ranges.last, last.upperBound == range.lowerBound {
      ranges[ranges.count - 1] = last.lowerBound..<range.upperBound
    } else {
      ranges.append(range)
    }
  }
}

extension SkippedSamples: Codable {
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(ranges)
  }

  /// Refuses ranges that are empty, not ascending or touch: whoever sent them has another idea of this type.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let ranges = try container.decode([Range<UInt64>].self)
    for (index, range) in ranges.enumerated()
    where range.isEmpty || index > 0 && range.lowerBound <= ranges[index - 1].upperBound {
      throw DecodingError.dataCorruptedError(
        in: container, debugDescription: "skipped ranges are not ascending, disjoint and filled")
    }
    self.ranges = ranges
  }
}

/// Why a range cannot be skipped.
public enum SkippedSamplesError: Error, Hashable, Sendable, CustomStringConvertible {
  case empty(at: UInt64)
  case overlaps(Range<UInt64>, Range<UInt64>)
  case beforeAnother(Range<UInt64>, Range<UInt64>)
  case insideStep(Range<UInt64>, perStep: UInt64)

  public var description: String {
    switch self {
    case .empty(let position): "the skipped range at sample \(position) is empty"
    case .overlaps(let range, let other): "samples \(range) to be skipped overlap the skipped range \(other)"
    case .beforeAnother(let range, let last):
      "samples \(range) to be skipped lie before the skipped range \(last): steps after them would move"
    case .insideStep(let range, let perStep):
      "samples \(range) to be skipped begin inside a step: steps have \(perStep) samples"
    }
  }
}
