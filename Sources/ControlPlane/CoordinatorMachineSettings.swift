import ClusterModel
import Wire

/// Counts of one step that are known from the data index.
public struct StepDenominators: Hashable, Sendable, Codable {
  public var targetTokens: UInt64
  public var images: UInt64
  public init(targetTokens: UInt64, images: UInt64) {
    self.targetTokens = targetTokens
    self.images = images
  }
}

/// What does not change while a coordinator lives.
public struct CoordinatorMachineSettings: Sendable {
  public var run: RunID
  /// Absolute, for `Welcome`.
  public var runDirectory: String
  /// The resolved configuration's text, for `Welcome`.
  public var configuration: String
  public var expectedWorkers: Int
  /// As configured; nil lets the planner choose.
  public var stages: Int?
  public var schedule: ScheduleKind
  public var shape: StepShape
  public var units: [CostUnit]
  public var memory: MemoryModel
  /// Tensors of the model: each must be in exactly one worker's norms.
  public var tensorCount: Int
  public var totalSteps: Step
  /// Drain at this state as if asked to; nil runs to the end.
  public var stopAfter: Step?
  public var samplesPerStep: UInt64
  public var tokensPerStep: UInt64
  public var dataFingerprint: String
  /// Every how many steps; 0 checkpoints only at the end and when draining.
  public var checkpointEvery: Step
  /// Every how many steps each worker copies its state into another one's memory; 0 never.
  public var copyEvery: Step = 10
  /// Every how many steps; 0 evaluates only at the start and at the end.
  public var validationEvery: Step
  /// 0 never evaluates.
  public var validationMicrobatches: Int
  /// Workers record what they do and report it.
  public var tracing = false
  public var learningRate: @Sendable (Step) -> Double
  /// What the reports of a step that consumes these positions of the sample stream must add up to; throws when
  /// the data index cannot be read.
  public var denominators: @Sendable (Range<UInt64>) throws -> StepDenominators
  /// Tells a bad step by its losses; nil takes every finite loss.
  public var lossSpike: LossSpike?
  public var limits = TimeLimits()
  /// Faults put in on purpose, for the simulator to find.
  package var planted: PlantedBug = []

  /// Times in ticks of the shell's clock.
  public struct TimeLimits: Hashable, Sendable {
    /// Length of a tick, for messages.
    public var tickSeconds = 0.1
    /// Between two heartbeats to the workers.
    public var heartbeatTicks: UInt64 = 5
    /// A worker that says nothing for so long is shown as suspected.
    public var suspectTicks: UInt64 = 10
    /// A worker that says nothing for so long is dead.
    public var deadTicks: UInt64 = 20
    /// Before an order that has not arrived is sent again.
    public var resendTicks: UInt64 = 5
    /// How long a restarted coordinator waits for more of its workers once one has come back.
    public var graceTicks: UInt64 = 20
    /// A plan with new workers is used when it shortens the step by this part of it.
    public var leastGain = 0.03
    /// Leaves move to faster replicas when that shortens the step by this part of it; 0 never moves any.
    public var leastShift = 0.15
    /// Ranges of samples in a row that may be skipped before one step.
    public var skippedRanges = 8
    /// Generations in a row that commit nothing before the run stops.
    public var fruitlessGenerations = 50
    /// A worker that beats but finishes nothing in a busy phase, or does not write its part of a checkpoint, for
    /// so long hangs.
    public var stuckTicks: UInt64 = 6_000
    /// Between two lines about workers that are still missing.
    public var reminderTicks: UInt64 = 100
    /// How many checkpoints in a row may fail before the run stops.
    public var checkpointFailures = 3
    public init() {}
  }

  public init(
    run: RunID, runDirectory: String, configuration: String, expectedWorkers: Int, stages: Int?,
    schedule: ScheduleKind, shape: StepShape, units: [CostUnit], memory: MemoryModel, tensorCount: Int,
    totalSteps: Step, samplesPerStep: UInt64, tokensPerStep: UInt64, dataFingerprint: String, checkpointEvery: Step,
    validationEvery: Step, validationMicrobatches: Int, learningRate: @escaping @Sendable (Step) -> Double,
    denominators: @escaping @Sendable (Range<UInt64>) throws -> StepDenominators
  ) {
    self.run = run
    self.runDirectory = runDirectory
    self.configuration = configuration
    self.expectedWorkers = expectedWorkers
    self.stages = stages
    self.schedule = schedule
    self.shape = shape
    self.units = units
    self.memory = memory
    self.tensorCount = tensorCount
    self.totalSteps = totalSteps
    self.samplesPerStep = samplesPerStep
    self.tokensPerStep = tokensPerStep
    self.dataFingerprint = dataFingerprint
    self.checkpointEvery = checkpointEvery
    self.validationEvery = validationEvery
    self.validationMicrobatches = validationMicrobatches
    self.learningRate = learningRate
    self.denominators = denominators
  }
}

/// Where a coordinator begins: what the journal and the checkpoints say.
public struct CoordinatorStart: Hashable, Sendable {
  /// Already recorded, and higher than any before.
  public var generation: Generation
  /// The state to begin from: 0 or a committed checkpoint.
  public var fromStep: Step
  /// The newest committed checkpoint, normally `fromStep`.
  public var lastCheckpoint: Step?
  /// The lowest worker number never given.
  public var nextWorker: UInt32
  /// States whose validation losses the journal has.
  public var evaluated: Set<Step>
  /// States after `fromStep` that have a checkpoint already: they are recomputed, but not written again.
  public var saved: Set<Step>
  /// Steps in the journal, at least `fromStep`.
  public var committed: Step
  /// Of the newest committed step, for workers that have its sums.
  public var norm: CommittedNorm?
  /// Positions of the sample stream that no step uses.
  public var skips = SkippedSamples()
  /// Workers that were found to compute wrongly.
  public var expelled: Set<WorkerID> = []
  /// The newest committed steps, as many as ``CoordinatorMachineSettings/lossSpike`` looks at.
  public var recent: [StepRecord] = []
  /// Who had a place in the newest plan: a restarted coordinator waits for them for a moment.
  public var lastPlaced: Set<WorkerID> = []
  /// The user asked for `fromStep`: what workers hold beyond it is not used.
  public var isRewind = false
  /// `Device.fingerprint` of the workers that made the state; nil when the first member defines it.
  public var deviceFingerprint: String?
  public init(
    generation: Generation, fromStep: Step = 0, committed: Step? = nil, norm: CommittedNorm? = nil,
    lastPlaced: Set<WorkerID> = [], isRewind: Bool = false, lastCheckpoint: Step? = nil, nextWorker: UInt32 = 1,
    evaluated: Set<Step> = [], saved: Set<Step> = [], deviceFingerprint: String? = nil
  ) {
    self.generation = generation
    self.fromStep = fromStep
    self.committed = committed ?? fromStep
    self.norm = norm
    self.lastPlaced = lastPlaced
    self.isRewind = isRewind
    self.lastCheckpoint = lastCheckpoint
    self.nextWorker = nextWorker
    self.evaluated = evaluated
    self.saved = saved
    self.deviceFingerprint = deviceFingerprint
  }
}
