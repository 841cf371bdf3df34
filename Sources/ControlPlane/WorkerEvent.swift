import ClusterModel
import Wire

/// What happens to a worker. The shell reports it, in the order in which it happened.
public enum WorkerEvent: Hashable, Sendable {
  /// The device is measured and the data plane bound: what to say hello with.
  case started(Hello)
  case message(Envelope)
  /// One tick of the shell's clock, with what the compute thread is doing. A shell that was held up reports one
  /// tick, not all it missed.
  case tick(Heartbeat)
  /// The compute thread has carried out an order; the message is its answer.
  case done(ControlMessage, order: UInt64, generation: Generation)
  /// The compute thread cannot carry out an order.
  case failed(FailureKind, reason: String, order: UInt64, generation: Generation)
  /// What happened beside the orders: a part of a checkpoint, a copy, a trace.
  case noted(ControlMessage, generation: Generation)
  /// Leave: finish the step, give away what is held. Asked twice, leave at once.
  case stopRequested(reason: String)
}

/// What the compute thread is to do; each is answered once.
public enum WorkerOrder: Hashable, Sendable {
  /// Say what is held: answered by `standing`. What runs has been interrupted before.
  case standing
  /// Answered by `ready`.
  case prepare(Prepare)
  /// Answered by `reduced`.
  case runStep(Step)
  /// Answered by `updated`.
  case update(Update)
  /// Answered by `evaluated`.
  case evaluate(Step)
  /// Answered by no more than the part of the checkpoint, when it is written.
  case save(Step)
}

/// What the shell of a worker must do, in the order given.
public enum WorkerDirective: Hashable, Sendable {
  case send(Envelope)
  /// The first welcome: from here on the run is known.
  case configure(Welcome, RunID)
  /// End whatever the compute thread does and waits for, and what it was to do next: its generation is over.
  case interrupt(reason: String)
  case perform(WorkerOrder, me: WorkerID, order: UInt64, generation: Generation)
  /// Answer at once with the trace's clock.
  case answerClock(sentNanoseconds: UInt64)
  case log(CoordinatorDirective.LogLevel, String)
  case finish(WorkerEnding)
}

/// How a worker's part in a run ends.
public enum WorkerEnding: Hashable, Sendable {
  /// All steps are done.
  case done
  /// Asked to go, or the run is to be resumed later.
  case requeue(reason: String)
  /// The run cannot go on as it is configured.
  case stopped(reason: String)
  case refused(reason: String)
  /// No coordinator has answered the first hello.
  case unreachable(seconds: Double)
  /// The coordinator was there, and is not any more.
  case coordinatorLost(seconds: Double)
}

/// Times in ticks of the worker shell's clock.
public struct WorkerMachineSettings: Hashable, Sendable {
  /// Length of a tick, for messages.
  public var tickSeconds = 0.05
  /// Between two heartbeats.
  public var heartbeatTicks: UInt64 = 5
  /// Silence of the coordinator after which the worker introduces itself again.
  public var rejoinTicks: UInt64 = 30
  /// Between two hellos, at first; doubled each time.
  public var helloTicks: UInt64 = 5
  public var mostHelloTicks: UInt64 = 40
  /// How long the first hello may stay without an answer.
  public var joinTicks: UInt64 = 1_200
  /// How long a member waits for a coordinator that has gone.
  public var lostTicks: UInt64 = 12_000
  /// Between two requests to leave.
  public var leavingTicks: UInt64 = 20
  public init() {}
}
