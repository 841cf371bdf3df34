import ClusterModel
import ControlPlane

/// What a simulation is about: the sizes that a user chooses, and nothing else.
public struct SimulationSettings: Hashable, Sendable {
  public var workers = 8
  public var steps: Step = 50
  /// Each message through its bytes and back.
  public var encodesMessages = false
  package var planted: PlantedBug = []
  public init(workers: Int = 8, steps: Step = 50) {
    self.workers = workers
    self.steps = steps
  }
}

/// A cluster and a run, drawn from a seed: the configuration, the machines' speeds, what goes wrong when.
public struct Scenario: Sendable {
  public let seed: UInt64
  /// Hosts with a worker from the start.
  let workers: Int
  /// Hosts where another may join.
  let extraSlots = 2
  let steps: Step
  let encodesMessages: Bool
  let planted: PlantedBug
  let model: StandInModel
  let stages: Int?
  let expectedWorkers: Int
  let checkpointEvery: Step
  let copyEvery: Step
  let validationEvery: Step
  let validationMicrobatches: Int
  let keepLast: Int
  let canDiskLie: Bool
  let memory: MemoryModel
  /// Of each host.
  let gigaflops: [Double]
  let memoryLimitBytes: UInt64
  // Microseconds.
  let latency: UInt64
  let jitter: UInt64
  let flushTime: UInt64
  let forwardTime: UInt64
  let updateTime: UInt64
  let partTime: UInt64
  let faultHorizon: UInt64
  public var faults: [Fault]

  /// The hosts of the workers, then two for coordinators.
  var hostCount: Int { workers + extraSlots + 2 }
  func coordinatorHost(_ number: Int) -> Int { workers + extraSlots + number % 2 }

  public init(seed: UInt64, settings: SimulationSettings) {
    self.seed = seed
    workers = settings.workers
    steps = settings.steps
    encodesMessages = settings.encodesMessages
    planted = settings.planted
    var random = SimulatedRandom(seed: seed)
    let leaves = random.pick([2, 4, 4, 8])
    let shape = StepShape(microbatches: leaves * random.pick([1, 2]), leaves: leaves)
    var unitTensors: [Range<Int>] = []
    for _ in 0..<3 + random.below(4) {
      let start = unitTensors.last?.upperBound ?? 0
      unitTensors.append(start..<start + 1 + random.below(2))
    }
    var model = StandInModel(seed: mixed(seed, 1), shape: shape, unitTensors: unitTensors)
    if random.chance(0.15) {
      for _ in 0..<1 + random.below(2) {
        model.poisoned.insert(random.number(0, UInt64(shape.microbatches) * max(settings.steps, 1)))
      }
    }
    self.model = model
    // In some runs a worker has not the memory for the whole model, so that too few of them must wait for others.
    let isTight = settings.workers >= 4 && random.chance(0.2)
    let parameters = unitTensors.count * Self.parametersPerUnit
    memoryLimitBytes = isTight ? UInt64(parameters * 21) : 0
    stages = isTight || random.chance(0.4) ? nil : 1 + random.below(min(3, unitTensors.count))
    expectedWorkers = random.chance(0.7) ? workers : max(1, workers - random.below(3))
    checkpointEvery = random.pick([0, 3, 5, 10])
    copyEvery = random.pick([0, 1, 4, 10])
    validationEvery = random.pick([0, 7])
    validationMicrobatches = random.pick([0, 3])
    keepLast = random.pick([2, 3])
    canDiskLie = random.chance(0.3)
    var memory = MemoryModel()
    memory.fixedBytes = 0
    self.memory = memory
    let isMixed = random.chance(0.3)
    gigaflops = (0..<settings.workers + 2).map { _ in isMixed ? Double(random.number(50, 200)) : 100 }
    let ms = VirtualTime.millisecond
    latency = random.pick([100, 300, 2 * ms])
    jitter = random.pick([50, 300, 3 * ms])
    flushTime = random.pick([500, 4 * ms, 20 * ms])
    forwardTime = random.pick([4 * ms, 15 * ms, 40 * ms])
    updateTime = random.pick([ms, 10 * ms])
    partTime = random.pick([5 * ms, 60 * ms, 400 * ms])
    // About as long as the undisturbed run takes.
    let step = 3 * forwardTime + updateTime + flushTime + 8 * (latency + jitter) + 5 * ms
    faultHorizon = min(max(step * settings.steps, VirtualTime.second), 12 * VirtualTime.second)
    faults = []
    faults = Fault.draw(&random, scenario: self)
  }

  static let parametersPerUnit = 1_000
  var units: [CostUnit] {
    model.unitTensors.indices.map {
      CostUnit(
        name: "unit \($0)", forwardFlops: 1e9, parameterCount: Self.parametersPerUnit, activationBytes: 0)
    }
  }
}
