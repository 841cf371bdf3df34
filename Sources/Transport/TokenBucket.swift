/// A bound on a rate: `burst` at once, `perSecond` in the long run.
struct TokenBucket {
  private var tokens: Double
  private var last: ContinuousClock.Instant

  init(burst: Double, now: ContinuousClock.Instant) {
    tokens = burst
    last = now
  }

  /// - Returns: whether that much could be taken; nothing is when not.
  mutating func take(
    _ cost: Double, perSecond: Double, burst: Double, now: ContinuousClock.Instant
  ) -> Bool {
    refill(perSecond, burst, now)
    guard tokens >= cost else { return false }
    tokens -= cost
    return true
  }

  mutating func isFull(perSecond: Double, burst: Double, now: ContinuousClock.Instant) -> Bool {
    refill(perSecond, burst, now)
    return tokens >= burst
  }

  private mutating func refill(_ perSecond: Double, _ burst: Double, _ now: ContinuousClock.Instant) {
    tokens = min(burst, tokens + (now - last) / .seconds(1) * perSecond)
    last = now
  }
}

/// Bounds of what one connection of the control plane may send; what is beyond is dropped and counted.
public struct ControlRate: Hashable, Sendable {
  /// A message costs 1 and another 1 for each 4 KiB of it; each further one in a bundle an eighth: it comes without a
  /// connection's work.
  public static let bytesPerToken = 4_096.0
  public static let bundledPerToken = 8.0
  public var tokensPerSecond: Double
  public var burstTokens: Double

  /// A worker sends some ten messages a step and four a second; at these bounds it may send 4,000 messages or
  /// 16 MiB a second for good, and 64 MiB at once (a trace report has up to 3 MiB).
  public init(tokensPerSecond: Double = 4_000, burstTokens: Double = 16_000) {
    self.tokensPerSecond = tokensPerSecond
    self.burstTokens = burstTokens
  }

  static func cost(bytes: Int) -> Double { 1 + Double(bytes) / bytesPerToken }
  /// Of the messages of a bundle beyond the first.
  static func cost(further messages: Int) -> Double { Double(messages) / bundledPerToken }
}

/// A bucket for each connection. One whose bucket is full again is forgotten: it would begin with a full one.
struct ConnectionRates {
  private let rate: ControlRate
  private var buckets: [[UInt8]: TokenBucket] = [:]
  private var pruneAt = 1_024

  init(_ rate: ControlRate) { self.rate = rate }

  mutating func take(_ cost: Double, from peer: [UInt8], now: ContinuousClock.Instant) -> Bool {
    if buckets.count >= pruneAt {
      buckets = buckets.filter { entry in
        var bucket = entry.value
        return !bucket.isFull(perSecond: rate.tokensPerSecond, burst: rate.burstTokens, now: now)
      }
      pruneAt = max(1_024, 2 * buckets.count)
    }
    return buckets[peer, default: TokenBucket(burst: rate.burstTokens, now: now)].take(
      cost, perSecond: rate.tokensPerSecond, burst: rate.burstTokens, now: now)
  }
}
