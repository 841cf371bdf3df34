import ArgumentParser
import ClusterModel
import Configuration
import ControlPlane
import Foundation
import TransfusionModel

struct PlanCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan",
    abstract: "Show stages, replicas, schedule, bubble and memory of a run without starting anything.",
    discussion: """
      Workers are taken to be alike: --gigaflops and --memory-limit describe one. The plan of a real run uses what
      each worker measured when it joined.
      """)

  @OptionGroup var configuration: ConfigurationOptions

  @Option(name: .long, help: "Number of workers.")
  var workers: Int

  @Option(name: .long, help: "Speed of one worker in GFLOP/s, for the time estimates.")
  var gigaflops: Double = 100

  @Option(
    name: .long,
    help: ArgumentHelp("Memory of one worker; without it memory is shown but limits nothing.", valueName: "bytes"))
  var memoryLimit: UInt64?

  func validate() throws {
    guard (1...65536).contains(workers) else {
      throw ValidationError("--workers must be in 1...65536: a plan needs at least one worker")
    }
    guard gigaflops > 0 else { throw ValidationError("--gigaflops must be positive") }
  }

  func run() throws {
    let loaded = try configuration.load()
    let planning = PlanningInput(loaded, limits: loaded.assumedLimits)
    let capacities = (1...UInt32(workers)).map {
      WorkerCapacity(worker: WorkerID($0), gigaflopsPerSecond: gigaflops, memoryLimitBytes: memoryLimit ?? .max)
    }
    let decision = try Planner.plan(
      units: planning.units, workers: capacities,
      stages: loaded.parallelism.stages == 0 ? nil : loaded.parallelism.stages,
      shape: loaded.shape, schedule: loaded.parallelism.schedule, memory: planning.memory)
    print(
      PlanReport.render(
        decision, units: planning.units, shape: loaded.shape, tokensPerStep: loaded.elementsPerStep,
        totalSteps: loaded.run.steps),
      terminator: "")
  }
}

/// What the planner is told about a model: names and costs of its units, and what a parameter costs.
struct PlanningInput {
  let units: [CostUnit]
  let memory: MemoryModel

  init(_ configuration: RunConfiguration, limits: MicrobatchLimits) {
    let precision = configuration.training.precision
    let recompute = configuration.training.recompute
    let model = configuration.model
    units = model.unitCosts(limits: limits, precision: precision, recompute: recompute).map { cost in
      let name = cost.unit == 0 ? "input" : cost.unit == model.unitCount - 1 ? "output" : "layer \(cost.unit - 1)"
      return CostUnit(
        name: name, forwardFlops: cost.forwardFlops, parameterCount: cost.parameterCount,
        activationBytes: cost.activationBytes)
    }
    var memory = MemoryModel()
    memory.computeCopyBytesPerParameter = precision == .bfloat16 ? 2 : 0
    // Two copies of its own state and two of another worker's: parameters and both moments.
    memory.copyBytesPerParameter = configuration.checkpoint.copyEvery > 0 ? 4 * 12 : 0
    memory.boundaryBytes = limits.rows * limits.length * model.width * 4
    memory.leavesAreMicrobatches = configuration.shape.microbatchesPerLeaf == 1
    memory.backwardOverForward = recompute.backwardOverForward
    self.memory = memory
  }
}
