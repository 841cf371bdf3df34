import ClusterModel
import Tracing

extension Traced {
  var proto: Transfusion_Wire_Traced {
    .with {
      // What is beyond the limit was lost on the way, which is not worth a refused message.
      let excess = max(0, spans.count - WireLimits.spans)
      $0.spans = spans.dropFirst(excess).map(\.proto)
      $0.dropped = min(dropped &+ UInt64(excess), WireLimits.count)
      if let pageFaults { $0.pageFaults = pageFaults }
      if let clock {
        $0.clock = .with {
          $0.sentNanoseconds = clock.sentNanoseconds
          $0.workerNanoseconds = clock.workerNanoseconds
        }
      }
    }
  }
  init(_ proto: Transfusion_Wire_Traced) throws(WireError) {
    try WireLimits.count(proto.spans.count, "traced.spans", atMost: WireLimits.spans)
    var clock: ClockAnswer?
    if proto.hasClock {
      clock = ClockAnswer(
        sentNanoseconds: try WireLimits.number(
          proto.clock.sentNanoseconds, "traced.clock.sentNanoseconds", atMost: WireLimits.count),
        workerNanoseconds: try WireLimits.number(
          proto.clock.workerNanoseconds, "traced.clock.workerNanoseconds", atMost: WireLimits.count))
    }
    self.init(
      spans: try proto.spans.map { span throws(WireError) in try TraceSpan(span) },
      dropped: try WireLimits.number(proto.dropped, "traced.dropped", atMost: WireLimits.count), clock: clock,
      pageFaults: proto.hasPageFaults
        ? try WireLimits.number(proto.pageFaults, "traced.pageFaults", atMost: WireLimits.count) : nil)
  }
}

extension TraceSpan {
  var proto: Transfusion_Wire_TraceSpan {
    .with {
      $0.activity = activity.proto
      $0.step = step
      if let microbatch { $0.microbatch = microbatch }
      $0.startNanoseconds = start
      $0.durationNanoseconds = duration
    }
  }
  init(_ proto: Transfusion_Wire_TraceSpan) throws(WireError) {
    let number = proto.activity.rawValue
    guard number != 0 else { throw .missing(field: "spans.activity") }
    guard let activity = UInt8(exactly: number).flatMap(Activity.init(rawValue:)) else {
      throw .unknownCase(field: "spans.activity", value: number)
    }
    self.init(
      activity: activity, step: try WireLimits.step(proto.step, "spans.step"),
      microbatch: proto.hasMicrobatch
        ? try WireLimits.number(proto.microbatch, "spans.microbatch", atMost: WireLimits.index) : nil,
      start: try WireLimits.number(proto.startNanoseconds, "spans.startNanoseconds", atMost: WireLimits.count),
      duration: try WireLimits.number(proto.durationNanoseconds, "spans.durationNanoseconds", atMost: WireLimits.count))
  }
}

extension TraceSpan.Activity {
  /// The numbers are the same on both sides, which WireTests check.
  var proto: Transfusion_Wire_TraceActivity {
    switch self {
    case .forward: .forward
    case .backward: .backward
    case .evaluate: .evaluate
    case .send: .send
    case .receive: .receive
    case .dataWait: .dataWait
    case .reduce: .reduce
    case .gather: .gather
    case .update: .update
    case .snapshot: .snapshot
    case .checkpointWrite: .checkpointWrite
    case .barrier: .barrier
    }
  }
}
