import ClusterModel

/// What a worker did, from when to when, by its own clock.
public struct TraceSpan: Hashable, Sendable {
  public enum Activity: UInt8, Hashable, Sendable, CaseIterable {
    case forward = 1
    case backward = 2
    /// A validation microbatch.
    case evaluate = 3
    /// Copying a boundary tensor out.
    case send = 4
    /// Waiting for a boundary tensor and copying it in.
    case receive = 5
    /// Waiting for a microbatch of the data thread.
    case dataWait = 6
    /// Sums of gradients: with the other leaves and with other replicas.
    case reduce = 7
    /// Sending and taking updated parameters.
    case gather = 8
    case update = 9
    /// Copying the state for a checkpoint: the part that training waits for.
    case snapshot = 10
    /// Writing it, in the background.
    case checkpointWrite = 11
    /// Waiting for the coordinator's word.
    case barrier = 12
  }
  public var activity: Activity
  /// The step that makes state `step + 1`; for checkpoints the state that is saved.
  public var step: Step
  /// Index in the step, where the activity is about one.
  public var microbatch: UInt32?
  /// Nanoseconds of the recorder's clock.
  public var start: UInt64
  public var duration: UInt64

  public init(activity: Activity, step: Step, microbatch: UInt32? = nil, start: UInt64, duration: UInt64) {
    self.activity = activity
    self.step = step
    self.microbatch = microbatch
    self.start = start
    self.duration = duration
  }
}

/// A row of a worker in the picture. The spans of one row never overlap; those of two rows may.
public enum TraceTrack: Int, Hashable, Sendable, CaseIterable {
  case compute = 1
  case collectives = 2
  case checkpoint = 3

  public var name: String {
    switch self {
    case .compute: "compute"
    case .collectives: "collectives"
    case .checkpoint: "checkpoint writer"
    }
  }
}

extension TraceSpan.Activity {
  public var track: TraceTrack {
    switch self {
    case .reduce, .gather: .collectives
    case .checkpointWrite: .checkpoint
    case .forward, .backward, .evaluate, .send, .receive, .dataWait, .update, .snapshot, .barrier: .compute
    }
  }
  public var name: String {
    switch self {
    case .forward: "forward"
    case .backward: "backward"
    case .evaluate: "evaluate"
    case .send: "send"
    case .receive: "receive"
    case .dataWait: "data wait"
    case .reduce: "reduce"
    case .gather: "gather"
    case .update: "update"
    case .snapshot: "checkpoint snapshot"
    case .checkpointWrite: "checkpoint write"
    case .barrier: "barrier"
    }
  }
}
