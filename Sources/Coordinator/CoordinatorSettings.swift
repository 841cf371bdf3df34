import ClusterModel
import ControlPlane

/// Everything that a coordinator is told when it starts.
public struct CoordinatorSettings: Sendable {
  public enum Start: Hashable, Sendable {
    /// From the newest valid checkpoint, or from the beginning where there is none.
    case newest
    /// From this state: 0 or a checkpoint.
    case step(Step)
  }
  public var runDirectory: String
  /// `tcp://127.0.0.1:7070`, `tcp://127.0.0.1:*` for a free port, `ipc:///path`.
  public var listen: String
  public var allowPlaintext = false
  public var start = Start.newest
  public var expectedWorkers: Int
  /// As configured; nil lets the planner choose.
  public var stages: Int?
  public var schedule: ScheduleKind
  public var shape: StepShape
  public var units: [CostUnit]
  public var memory: MemoryModel
  /// Tensors of the model in canonical order.
  public var tensorCount: Int
  public var totalSteps: Step
  /// Drain at this state; nil runs to the end.
  public var stopAfter: Step?
  /// Resolved configuration (YAML): config.yaml, and what workers are sent.
  public var configurationText: String
  /// Canonical text of what the result depends on, one setting a line; a resume must have the same.
  public var identity: String
  public var precision: String
  public var dataFingerprint: String
  public var samplesPerStep: UInt64
  public var tokensPerStep: UInt64
  /// 0 checkpoints only at the end and when draining.
  public var checkpointEvery: Step
  public var keepLast: Int
  /// 0 keeps none for good.
  public var keepEvery: Step
  /// 0 evaluates only at the start and the end.
  public var validationEvery: Step
  /// 0 never evaluates.
  public var validationMicrobatches: Int
  public var diffusionWeight: Double
  /// Learning rate of the step that makes state `step + 1`.
  public var learningRate: @Sendable (Step) -> Double
  /// Target tokens and images of a step, from the data index.
  public var denominators: @Sendable (Step) -> StepDenominators
  /// Shapes by tensor path that a checkpoint must have; nil accepts any.
  public var checkpointShapes: [String: [Int]]?
  public var deadSeconds = 15.0
  public var stuckSeconds = 600.0
  /// Called once with the bound address, before any worker is awaited.
  public var onListening: @Sendable (String) -> Void = { _ in }

  public init(
    runDirectory: String, listen: String, expectedWorkers: Int, stages: Int?, schedule: ScheduleKind,
    shape: StepShape, units: [CostUnit], memory: MemoryModel, tensorCount: Int, totalSteps: Step,
    configurationText: String, identity: String, precision: String, dataFingerprint: String, samplesPerStep: UInt64,
    tokensPerStep: UInt64, checkpointEvery: Step, keepLast: Int, keepEvery: Step, validationEvery: Step,
    validationMicrobatches: Int, diffusionWeight: Double, learningRate: @escaping @Sendable (Step) -> Double,
    denominators: @escaping @Sendable (Step) -> StepDenominators
  ) {
    self.runDirectory = runDirectory
    self.listen = listen
    self.expectedWorkers = expectedWorkers
    self.stages = stages
    self.schedule = schedule
    self.shape = shape
    self.units = units
    self.memory = memory
    self.tensorCount = tensorCount
    self.totalSteps = totalSteps
    self.configurationText = configurationText
    self.identity = identity
    self.precision = precision
    self.dataFingerprint = dataFingerprint
    self.samplesPerStep = samplesPerStep
    self.tokensPerStep = tokensPerStep
    self.checkpointEvery = checkpointEvery
    self.keepLast = keepLast
    self.keepEvery = keepEvery
    self.validationEvery = validationEvery
    self.validationMicrobatches = validationMicrobatches
    self.diffusionWeight = diffusionWeight
    self.learningRate = learningRate
    self.denominators = denominators
  }

  /// Length of a tick.
  static let tickSeconds = 0.1

  func machineSettings(run: RunID, directory: RunDirectory) -> CoordinatorMachineSettings {
    var settings = CoordinatorMachineSettings(
      run: run, runDirectory: directory.path, configuration: configurationText, expectedWorkers: expectedWorkers,
      stages: stages, schedule: schedule, shape: shape, units: units, memory: memory, tensorCount: tensorCount,
      totalSteps: totalSteps, samplesPerStep: samplesPerStep, tokensPerStep: tokensPerStep,
      dataFingerprint: dataFingerprint, checkpointEvery: checkpointEvery, validationEvery: validationEvery,
      validationMicrobatches: validationMicrobatches, learningRate: learningRate, denominators: denominators)
    settings.stopAfter = stopAfter
    settings.limits.heartbeatTicks = 5
    settings.limits.deadTicks = UInt64(max(deadSeconds, Self.tickSeconds) / Self.tickSeconds)
    settings.limits.stuckTicks = UInt64(max(stuckSeconds, Self.tickSeconds) / Self.tickSeconds)
    return settings
  }
}
