import Foundation

/// State that several threads share: a lock and a condition in one, so that neither is used without the other.
///
// Safe because the state is reachable inside `withLock` and `wait` only, which hold the lock.
final class Monitor<State>: @unchecked Sendable {
  private let condition = NSCondition()
  private var state: State
  private let clock = ContinuousClock()

  init(_ state: State) { self.state = state }

  func withLock<Value, Failure: Error>(_ body: (inout State) throws(Failure) -> Value) throws(Failure) -> Value {
    condition.lock()
    defer { condition.unlock() }
    return try body(&state)
  }

  /// As `withLock`, and lets everybody who waits look again.
  func change<Value, Failure: Error>(_ body: (inout State) throws(Failure) -> Value) throws(Failure) -> Value {
    condition.lock()
    defer {
      condition.broadcast()
      condition.unlock()
    }
    return try body(&state)
  }

  /// Waits until `body` returns a value; nil when that took longer than `timeout`.
  func wait<Value, Failure: Error>(
    atMost timeout: Duration, _ body: (inout State) throws(Failure) -> Value?
  ) throws(Failure) -> Value? {
    condition.lock()
    defer { condition.unlock() }
    let deadline = clock.now + timeout
    while true {
      if let value = try body(&state) { return value }
      let left = deadline - clock.now
      if left <= .zero { return nil }
      // Foundation waits by the wall clock, which may be set: so in short pieces, measured by the steady one.
      _ = condition.wait(until: Date(timeIntervalSinceNow: min(1, left / .seconds(1))))
    }
  }
}
