/// How far another process's clock is from ours, from questions and answers (as NTP does it: Mills 1991).
///
/// A question leaves at `sent` by our clock, is answered at `remote` by the other's, and the answer arrives at
/// `received` by ours. If both ways take equally long, `remote` is the middle of the two; at worst the answer
/// is wrong by half the round trip. So of the newest questions the one with the shortest round trip counts.
public struct ClockOffset: Hashable, Sendable {
  private struct Sample: Hashable {
    var offset: Int64
    var roundTrip: UInt64
  }
  private var samples: [Sample] = []
  private var next = 0
  /// Old samples go, because clocks drift.
  private static let kept = 64

  public init() {}

  /// Nanoseconds by either clock; an answer that came before its question is ignored.
  public mutating func add(sent: UInt64, remote: UInt64, received: UInt64) {
    guard received >= sent, received <= UInt64(Int64.max), remote <= UInt64(Int64.max) else { return }
    let middle = sent + (received - sent) / 2
    let sample = Sample(offset: Int64(middle) - Int64(remote), roundTrip: received - sent)
    if samples.count < Self.kept {
      samples.append(sample)
    } else {
      samples[next] = sample
      next = (next + 1) % Self.kept
    }
  }

  /// What is added to a time of the other clock to get one of ours; nil before the first answer.
  public var nanoseconds: Int64? { best?.offset }
  /// Half the round trip that it comes from: how wrong it can be.
  public var uncertaintyNanoseconds: UInt64? { best.map { $0.roundTrip / 2 } }
  private var best: Sample? { samples.min { $0.roundTrip < $1.roundTrip } }

  /// A time of the other clock by ours; one from before our clock began becomes 0.
  public func local(_ remote: UInt64) -> UInt64? {
    nanoseconds.map { offset in
      let (sum, overflow) = Int64(min(remote, UInt64(Int64.max))).addingReportingOverflow(offset)
      return overflow ? 0 : UInt64(max(sum, 0))
    }
  }
}
