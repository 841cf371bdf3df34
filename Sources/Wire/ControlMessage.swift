import ClusterModel
import Tracing

/// Every control message between coordinator, workers and observers: one envelope, one gate.
public struct Envelope: Hashable, Sendable {
  public enum Sender: Hashable, Sendable {
    case coordinator
    case worker(WorkerID)
    /// A process that has not been given a worker ID yet.
    case candidate
    /// A status client.
    case observer
  }
  /// Empty only from candidates and observers, who do not know it yet.
  public var run: RunID
  public var generation: Generation
  public var sender: Sender
  /// From the coordinator: the number of this order in its generation, rising; 0 asks for nothing. From a worker: the
  /// order that this answers.
  public var order: UInt64
  public var message: ControlMessage
  public init(run: RunID, generation: Generation, sender: Sender, order: UInt64 = 0, message: ControlMessage) {
    self.run = run
    self.generation = generation
    self.sender = sender
    self.order = order
    self.message = message
  }
}

public enum ControlMessage: Hashable, Sendable {
  // worker -> coordinator
  case hello(Hello)
  case ready(Ready)
  case reduced(Reduced)
  case updated(Updated)
  case evaluated(Evaluated)
  case checkpointWritten(CheckpointPart)
  case checkpointFailed(step: Step, reason: String)
  case heartbeat(Heartbeat)
  /// The worker was asked to go (SIGTERM): it is let go when others hold what it held.
  case leaving(reason: String)
  /// The worker cannot go on; the kind decides whether trying again can help, the reason is for the user.
  case failed(kind: FailureKind, reason: String)
  /// What the worker did, when the welcome asked for it.
  case traced(Traced)
  /// Answers `regroup`: what the worker can give the new generation.
  case standing(Standing)
  /// The copy of another worker's part of state `step` is complete in this worker's memory.
  case copied(step: Step)

  // coordinator -> worker
  case welcome(Welcome)
  case refused(reason: String)
  case prepare(Prepare)
  /// Compute step `step` (the one that makes state step + 1) up to the reduced gradients.
  case runStep(step: Step)
  case update(Update)
  case evaluate(step: Step)
  /// Write state `step`, which is held, as a checkpoint: answered by the part alone.
  case save(step: Step)
  /// The manifest of `step` is in place.
  case checkpointCommitted(step: Step)
  case coordinatorHeartbeat(CoordinatorHeartbeat)
  /// A new generation begins: abandon the step, answer `standing`.
  case regroup
  /// The coordinator does not know this connection: say hello.
  case introduce
  case stop(Stop)
  /// Answered at once in `traced`: when did this arrive by the worker's clock?
  case clockQuestion(sentNanoseconds: UInt64)

  // observer <-> coordinator
  case statusRequest
  /// JSON as documented in docs/status-json.md.
  case status(json: String)
}

extension ControlMessage {
  /// Whether nobody waits for it: a sign of life, which may come a fraction of a second later.
  public var canWait: Bool { if case .heartbeat = self { true } else { false } }
}

/// What stopped a worker: all but ``peerLost`` would stop it again.
public enum FailureKind: UInt8, Hashable, Sendable, CaseIterable {
  /// The data are damaged, missing or do not fit the configuration.
  case data = 1
  /// The worker cannot do what it was given: no memory left on the device, or a processor without support.
  case configuration = 2
  /// A checkpoint could not be read or written.
  case storage = 3
  /// Another worker does not answer: the run may go on without it.
  case peerLost = 4
  /// A fault of the program.
  case software = 5
}

/// First message of a worker. Answered by `welcome` or `refused`.
public struct Hello: Hashable, Sendable {
  public var protocolVersion: UInt32
  /// The ID from an earlier welcome of this run, when reconnecting.
  public var worker: WorkerID?
  public var host: String
  public var processID: Int32
  public var threads: UInt32
  public var memoryLimitBytes: UInt64
  /// `Device.fingerprint`; all workers of a run must agree.
  public var deviceFingerprint: String
  /// Measured when joining: what the planner weighs stages and leaves by.
  public var gigaflopsPerSecond: Double
  public var dataEndpoint: String
  public static let currentProtocol: UInt32 = 5
  public init(
    protocolVersion: UInt32 = Hello.currentProtocol, worker: WorkerID?, host: String, processID: Int32, threads: UInt32,
    memoryLimitBytes: UInt64, deviceFingerprint: String, gigaflopsPerSecond: Double, dataEndpoint: String
  ) {
    self.protocolVersion = protocolVersion
    self.worker = worker
    self.host = host
    self.processID = processID
    self.threads = threads
    self.memoryLimitBytes = memoryLimitBytes
    self.deviceFingerprint = deviceFingerprint
    self.gigaflopsPerSecond = gigaflopsPerSecond
    self.dataEndpoint = dataEndpoint
  }
}

public struct Welcome: Hashable, Sendable {
  public var worker: WorkerID
  /// The resolved configuration, as the YAML text in the run directory.
  public var configuration: String
  /// Absolute path of the run directory, on a file system that all hosts share.
  public var runDirectory: String
  /// Whether the worker records what it does and reports it in `traced`.
  public var tracing: Bool
  public init(worker: WorkerID, configuration: String, runDirectory: String, tracing: Bool = false) {
    self.worker = worker
    self.configuration = configuration
    self.runDirectory = runDirectory
    self.tracing = tracing
  }
}

public struct Peer: Hashable, Sendable {
  public var worker: WorkerID
  public var dataEndpoint: String
  /// The CURVE key that the coordinator authenticated, ``publicKeyBytes`` long; empty where traffic is plain.
  public var publicKey: [UInt8]
  public static let publicKeyBytes = 32
  public init(worker: WorkerID, dataEndpoint: String, publicKey: [UInt8] = []) {
    self.worker = worker
    self.dataEndpoint = dataEndpoint
    self.publicKey = publicKey
  }
}

/// Begin a generation: take a place, get its state, give others theirs, answer `ready`.
public struct Prepare: Hashable, Sendable {
  public var plan: Plan
  public var peers: [Peer]
  /// State to start from.
  public var fromStep: Step
  public var origin: StateOrigin
  /// Of `fromStep`, where it is committed: whose sums make that state (``Standing/madeBySums(_:)``) applies their update
  /// first.
  public var norm: CommittedNorm?
  /// Positions of the sample stream that no step uses.
  public var skipped: [Range<UInt64>]
  public init(
    plan: Plan, peers: [Peer], fromStep: Step, origin: StateOrigin, norm: CommittedNorm? = nil,
    skipped: [Range<UInt64>] = []
  ) {
    self.plan = plan
    self.peers = peers
    self.fromStep = fromStep
    self.origin = origin
    self.norm = norm
    self.skipped = skipped
  }
}

public struct Ready: Hashable, Sendable {
  public var step: Step
  public var dataFingerprint: String
  public var memoryBytes: UInt64
  public init(step: Step, dataFingerprint: String, memoryBytes: UInt64) {
    self.step = step
    self.dataFingerprint = dataFingerprint
    self.memoryBytes = memoryBytes
  }
}

/// Losses of one microbatch: sums, not means, so that the coordinator adds them in index order and divides
/// by the step's denominators once.
public struct MicrobatchLoss: Hashable, Sendable, Codable {
  public var microbatch: UInt32
  public var languageModelSum: Double
  public var targetTokens: UInt64
  public var diffusionSum: Double
  public var images: UInt64
  public init(microbatch: UInt32, languageModelSum: Double, targetTokens: UInt64, diffusionSum: Double, images: UInt64)
  {
    self.microbatch = microbatch
    self.languageModelSum = languageModelSum
    self.targetTokens = targetTokens
    self.diffusionSum = diffusionSum
    self.images = images
  }
}

/// Sum of squares of one parameter's whole gradient; `tensor` is its place in the model's canonical order.
public struct TensorNorm: Hashable, Sendable {
  public var tensor: UInt32
  public var sumOfSquares: Double
  public init(tensor: UInt32, sumOfSquares: Double) {
    self.tensor = tensor
    self.sumOfSquares = sumOfSquares
  }
}

/// A worker's part of the step is summed. Over all workers each microbatch (from last stages) and each
/// tensor (from its owner) appears exactly once.
public struct Reduced: Hashable, Sendable {
  public var step: Step
  public var losses: [MicrobatchLoss]
  public var norms: [TensorNorm]
  public init(step: Step, losses: [MicrobatchLoss], norms: [TensorNorm]) {
    self.step = step
    self.losses = losses
    self.norms = norms
  }
}

/// Everything is summed and the step is committed: apply the optimizer.
public struct Update: Hashable, Sendable {
  public var step: Step
  /// Sum of squares of the whole gradient, added in tensor order.
  public var gradientSumOfSquares: Double
  /// After the update, snapshot the state (now step + 1) and write it as a checkpoint.
  public var checkpoint: Bool
  /// After the update, copy the state into the memory of the worker's buddy (``Plan/buddy(of:)``).
  public var copy: Bool
  public init(step: Step, gradientSumOfSquares: Double, checkpoint: Bool, copy: Bool = false) {
    self.step = step
    self.gradientSumOfSquares = gradientSumOfSquares
    self.checkpoint = checkpoint
    self.copy = copy
  }
}

/// The worker holds state step + 1.
public struct Updated: Hashable, Sendable {
  public var step: Step
  public var phases: PhaseSeconds
  public var memoryBytes: UInt64
  public init(step: Step, phases: PhaseSeconds, memoryBytes: UInt64) {
    self.step = step
    self.phases = phases
    self.memoryBytes = memoryBytes
  }
}

/// Where a worker's step went.
public struct PhaseSeconds: Hashable, Sendable, Codable {
  public var forward = 0.0
  public var backward = 0.0
  public var receive = 0.0
  public var reduce = 0.0
  public var update = 0.0
  public var data = 0.0
  public var checkpoint = 0.0
  public init() {}
}

public struct Evaluated: Hashable, Sendable {
  public var step: Step
  public var losses: [MicrobatchLoss]
  public init(step: Step, losses: [MicrobatchLoss]) {
    self.step = step
    self.losses = losses
  }
}

/// One worker's file of a checkpoint is complete, read back and on disk.
public struct CheckpointPart: Hashable, Sendable {
  public struct Tensor: Hashable, Sendable {
    public var path: String
    public var shape: [Int]
    /// SHA-256 of the little-endian row-major bytes, hexadecimal.
    public var sha256: String
    public init(path: String, shape: [Int], sha256: String) {
      self.path = path
      self.shape = shape
      self.sha256 = sha256
    }
  }
  public var step: Step
  public var file: String
  public var sizeBytes: UInt64
  public var sha256: String
  public var tensors: [Tensor]
  public init(step: Step, file: String, sizeBytes: UInt64, sha256: String, tensors: [Tensor]) {
    self.step = step
    self.file = file
    self.sizeBytes = sizeBytes
    self.sha256 = sha256
    self.tensors = tensors
  }
}

public struct Heartbeat: Hashable, Sendable {
  /// Counts finished actions since the worker started: stands still when the worker hangs.
  public var progress: UInt64
  public var step: Step
  /// What it is doing: "forward", "receive", "update", "idle" ...
  public var phase: String
  public var microbatchesPerSecond: Double
  public var memoryBytes: UInt64
  /// The newest order of its generation that the worker has; 0 for none.
  public var order: UInt64
  public init(
    progress: UInt64, step: Step, phase: String, microbatchesPerSecond: Double, memoryBytes: UInt64, order: UInt64 = 0
  ) {
    self.order = order
    self.progress = progress
    self.step = step
    self.phase = phase
    self.microbatchesPerSecond = microbatchesPerSecond
    self.memoryBytes = memoryBytes
  }
}

public struct Stop: Hashable, Sendable {
  public enum Disposition: UInt8, Sendable {
    /// All steps are done.
    case done = 1
    /// Asked to stop; resume later.
    case requeue = 2
    /// The run cannot go on as it is configured.
    case failed = 3
  }
  public var disposition: Disposition
  public var reason: String
  public init(disposition: Disposition, reason: String) {
    self.disposition = disposition
    self.reason = reason
  }
}

/// Spans since the last report, or the answer to a `clockQuestion`, or both.
public struct Traced: Hashable, Sendable {
  /// When a question reached the worker.
  public struct ClockAnswer: Hashable, Sendable {
    /// As asked: by the coordinator's clock.
    public var sentNanoseconds: UInt64
    /// By the clock of the worker's spans.
    public var workerNanoseconds: UInt64
    public init(sentNanoseconds: UInt64, workerNanoseconds: UInt64) {
      self.sentNanoseconds = sentNanoseconds
      self.workerNanoseconds = workerNanoseconds
    }
  }
  public var spans: [TraceSpan]
  /// Spans that were recorded and are lost.
  public var dropped: UInt64
  public var clock: ClockAnswer?
  /// Pages that the system gave to the worker's process since its last report: about none in a steady step. Nil in
  /// the answer to a question.
  public var pageFaults: UInt64?
  public init(spans: [TraceSpan] = [], dropped: UInt64 = 0, clock: ClockAnswer? = nil, pageFaults: UInt64? = nil) {
    self.spans = spans
    self.dropped = dropped
    self.clock = clock
    self.pageFaults = pageFaults
  }
}
