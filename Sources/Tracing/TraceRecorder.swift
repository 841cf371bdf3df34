import ClusterModel
import Synchronization

/// Keeps a process's spans until they are handed on: at most so many, the newest.
///
/// Any thread may record. While it is off, which it is at first, recording is one load and one branch.
public final class TraceRecorder: Sendable {
  private struct Ring {
    var spans: [TraceSpan] = []
    /// The oldest span once the ring is full.
    var head = 0
    var dropped: UInt64 = 0
  }
  private let on = Atomic<Bool>(false)
  private let ring = Mutex(Ring())
  private let capacity: Int
  private let clock = ContinuousClock()
  private let origin: ContinuousClock.Instant

  /// - Parameter capacity: spans that are kept; older ones are dropped and counted.
  public init(capacity: Int = 32_768) {
    precondition(capacity > 0, "a ring without room")
    self.capacity = capacity
    origin = clock.now
  }

  public var isOn: Bool { on.load(ordering: .relaxed) }
  public func turnOn() { on.store(true, ordering: .relaxed) }

  /// Nanoseconds since the recorder was made: the clock of its spans.
  public var now: UInt64 {
    let (seconds, attoseconds) = (clock.now - origin).components
    return UInt64(max(seconds, 0)) &* 1_000_000_000 &+ UInt64(max(attoseconds, 0) / 1_000_000_000)
  }

  /// Does `body` and keeps when, whether it throws or not.
  @inline(__always) public func measure<Value, Failure: Error>(
    _ activity: TraceSpan.Activity, step: Step, microbatch: Int? = nil, _ body: () throws(Failure) -> Value
  ) throws(Failure) -> Value {
    guard isOn else { return try body() }
    let start = now
    defer { record(activity, step: step, microbatch: microbatch, from: start) }
    return try body()
  }

  /// Keeps a span that ends now.
  public func record(_ activity: TraceSpan.Activity, step: Step, microbatch: Int? = nil, from start: UInt64) {
    guard isOn else { return }
    let end = now
    let span = TraceSpan(
      activity: activity, step: step, microbatch: microbatch.flatMap { UInt32(exactly: $0) }, start: start,
      duration: end - min(start, end))
    ring.withLock { ring in
      if ring.spans.count < capacity {
        ring.spans.append(span)
      } else {
        ring.spans[ring.head] = span
        ring.head = (ring.head + 1) % capacity
        ring.dropped += 1
      }
    }
  }

  /// Takes all spans out, in the order in which they ended, and how many were dropped since the last time.
  public func drain() -> (spans: [TraceSpan], dropped: UInt64) {
    ring.withLock { ring in
      let spans = Array(ring.spans[ring.head...] + ring.spans[..<ring.head])
      let dropped = ring.dropped
      ring.spans.removeAll(keepingCapacity: true)
      ring.head = 0
      ring.dropped = 0
      return (spans, dropped)
    }
  }
}
