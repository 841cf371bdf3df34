import CSystem
import Foundation
import Synchronization

/// State that several threads share: a lock and a condition in one, so that neither is used without the other.
///
// Safe because the state is reachable inside `withLock` and `wait` only, which hold the lock.
final class Monitor<State>: @unchecked Sendable {
  private let condition = NSCondition()
  private var state: State
  private let clock = ContinuousClock()
  /// Grows with every `change`, so that who waits can look without the lock.
  private let version = Atomic<Int>(0)

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
      version.add(1, ordering: .releasing)
      condition.broadcast()
      condition.unlock()
    }
    return try body(&state)
  }

  /// Waits until `body` returns a value; nil when that took longer than `timeout`.
  /// - Parameter spinning: looks for that long before it sleeps: waking a thread takes some microseconds.
  func wait<Value, Failure: Error>(
    atMost timeout: Duration, spinning: Duration = .zero, _ body: (inout State) throws(Failure) -> Value?
  ) throws(Failure) -> Value? {
    condition.lock()
    defer { condition.unlock() }
    if let value = try body(&state) { return value }
    let start = clock.now
    let deadline = start + timeout
    if spinning > .zero && timeout > .zero {
      var seen = version.load(ordering: .relaxed)
      while clock.now - start < min(spinning, timeout) {
        condition.unlock()
        var looks = 0
        while version.load(ordering: .acquiring) == seen && looks < 200 {
          csystem_pause()
          looks += 1
        }
        condition.lock()
        if looks == 200 { continue }
        seen = version.load(ordering: .relaxed)
        if let value = try body(&state) { return value }
      }
    }
    while true {
      if let value = try body(&state) { return value }
      let left = deadline - clock.now
      if left <= .zero { return nil }
      // Foundation waits by the wall clock, which may be set: so in short pieces, measured by the steady one.
      _ = condition.wait(until: Date(timeIntervalSinceNow: min(1, left / .seconds(1))))
    }
  }
}
