import ClusterModel
import ControlPlane
import Transport

/// Which state a coordinator begins from.
public enum CoordinatorResume: Hashable, Sendable {
  /// The newest valid checkpoint, or the beginning where there is none.
  case newest
  /// This state: 0 or a checkpoint.
  case step(Step)

  /// Whether what workers hold beyond the state is not wanted.
  var isRewind: Bool { if case .step = self { true } else { false } }
}

/// Everything that a coordinator is told when it starts.
public struct CoordinatorSettings: Sendable {
  public var runDirectory: String
  /// `tcp://127.0.0.1:7070`, `tcp://127.0.0.1:*` for a free port, `ipc:///path`.
  public var listen: String
  public var allowPlaintext = false
  /// With it everything is encrypted, and only keys on the run's list (and this one) are let in.
  public var keys: KeyPair?
  /// The list of keys; nil takes the run directory's.
  public var authorizedKeys: String?
  /// Connections that one key may have at a time.
  public var connectionsPerKey = 256
  public var resume = CoordinatorResume.newest
  /// Resolved configuration (YAML): config.yaml, and what workers are sent.
  public var configuration: String
  /// Canonical text of what the result depends on, one setting a line; a resume must have the same.
  public var identity: String
  public var expectedWorkers: Int
  /// As configured; nil lets the planner choose.
  public var stages: Int?
  public var schedule: ScheduleKind
  public var shape: StepShape
  public var units: [CostUnit]
  public var memory: MemoryModel
  /// Shapes of the model's parameters by name.
  public var tensorShapes: [String: [Int]]
  public var totalSteps: Step
  /// Drain at this state; nil runs to the end.
  public var stopAfter: Step?
  public var samplesPerStep: UInt64
  /// Sequence elements of a step, padding included.
  public var tokensPerStep: UInt64
  public var dataFingerprint: String
  /// For the manifest: "float32" or "bfloat16".
  public var precision = "float32"
  /// 0 checkpoints only at the end and when draining.
  public var checkpointEvery: Step = 0
  public var keepLast = 3
  /// Steps divisible by this are kept for good; nil or 0 for none.
  public var keepEvery: Step?
  /// 0 evaluates only at the start and the end.
  public var validationEvery: Step = 0
  /// 0 never evaluates.
  public var validationMicrobatches = 0
  /// For the combined loss in the log; nil leaves it out.
  public var diffusionWeight: Double?
  /// Where a trace of what every worker does is written; nil records none.
  public var traceFile: String?
  /// Of the step that makes state `step + 1`.
  public var learningRate: @Sendable (Step) -> Double
  /// Target tokens and images of a step that consumes these positions of the sample stream, from the data index.
  public var denominators: @Sendable (Range<UInt64>) throws -> StepDenominators
  /// Tells a bad step by its losses; nil takes every finite loss.
  public var lossSpike: LossSpike?
  /// A worker that says nothing for so long is lost.
  public var deadSeconds = 2.0
  /// A worker that says nothing for so long is shown as suspected.
  public var suspectSeconds = 1.0
  /// Every how many steps each worker copies its state into another one's memory; 0 never.
  public var copyEvery: Step = 10
  /// A worker that beats but finishes nothing for so long hangs.
  public var stuckSeconds = 600.0

  public init(
    runDirectory: String, listen: String, configuration: String, identity: String, expectedWorkers: Int, stages: Int?,
    schedule: ScheduleKind, shape: StepShape, units: [CostUnit], memory: MemoryModel, tensorShapes: [String: [Int]],
    totalSteps: Step, samplesPerStep: UInt64, tokensPerStep: UInt64, dataFingerprint: String,
    learningRate: @escaping @Sendable (Step) -> Double,
    denominators: @escaping @Sendable (Range<UInt64>) throws -> StepDenominators
  ) {
    self.runDirectory = runDirectory
    self.listen = listen
    self.configuration = configuration
    self.identity = identity
    self.expectedWorkers = expectedWorkers
    self.stages = stages
    self.schedule = schedule
    self.shape = shape
    self.units = units
    self.memory = memory
    self.tensorShapes = tensorShapes
    self.totalSteps = totalSteps
    self.samplesPerStep = samplesPerStep
    self.tokensPerStep = tokensPerStep
    self.dataFingerprint = dataFingerprint
    self.learningRate = learningRate
    self.denominators = denominators
  }

  /// Length of a tick.
  static let tickSeconds = 0.1

  /// What a checkpoint must hold: each parameter and its two moments.
  var checkpointShapes: [String: [Int]] {
    var shapes: [String: [Int]] = [:]
    for group in ["/parameters/", "/adamw/first_moment/", "/adamw/second_moment/"] {
      for (name, shape) in tensorShapes { shapes[group + name] = shape }
    }
    return shapes
  }

  func machineSettings(run: RunID, directory: RunDirectory) -> CoordinatorMachineSettings {
    var settings = CoordinatorMachineSettings(
      run: run, runDirectory: directory.path, configuration: configuration, expectedWorkers: expectedWorkers,
      stages: stages, schedule: schedule, shape: shape, units: units, memory: memory,
      tensorCount: tensorShapes.count, totalSteps: totalSteps, samplesPerStep: samplesPerStep,
      tokensPerStep: tokensPerStep, dataFingerprint: dataFingerprint, checkpointEvery: checkpointEvery,
      validationEvery: validationEvery, validationMicrobatches: validationMicrobatches, learningRate: learningRate,
      denominators: denominators)
    settings.stopAfter = stopAfter
    settings.lossSpike = lossSpike
    settings.tracing = traceFile != nil
    settings.limits.tickSeconds = Self.tickSeconds
    settings.limits.heartbeatTicks = 5
    settings.copyEvery = copyEvery
    settings.limits.suspectTicks = UInt64(max(suspectSeconds, Self.tickSeconds) / Self.tickSeconds)
    settings.limits.deadTicks = UInt64(max(deadSeconds, Self.tickSeconds) / Self.tickSeconds)
    settings.limits.stuckTicks = UInt64(max(stuckSeconds, Self.tickSeconds) / Self.tickSeconds)
    return settings
  }
}
