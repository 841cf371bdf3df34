import Wire

/// What the workers of a host have said and a relay has not sent yet. What can wait, waits for company: signs of life, of
/// which each worker gives four a second, go with whatever else is said, or together.
struct HeldBundle {
  /// How long, at most: a fraction of the second without a sign after which a worker is suspected, less than the time
  /// between two of its signs.
  static let patience = Duration.milliseconds(200)

  private(set) var builder = Bundle.Builder()
  /// Messages that others wait for.
  private(set) var urgentCount = 0
  private var due: ContinuousClock.Instant?

  mutating func append(
    _ envelope: some Collection<UInt8>, from seat: UInt32, canWait: Bool,
    at now: @autoclosure () -> ContinuousClock.Instant
  ) {
    builder.append(envelope, from: seat)
    if !canWait { urgentCount += 1 } else if due == nil { due = now() + Self.patience }
  }
  /// Whoever had the seat has gone.
  mutating func appendGone(_ seat: UInt32) {
    builder.appendGone(seat)
    urgentCount += 1
  }

  /// When it is to be sent at the latest; nil when at once, or when there is nothing.
  var deadline: ContinuousClock.Instant? { urgentCount == 0 ? due : nil }
  func isDue(at now: @autoclosure () -> ContinuousClock.Instant) -> Bool {
    if urgentCount > 0 { return true }
    guard let due else { return false }
    return due <= now()
  }
}
