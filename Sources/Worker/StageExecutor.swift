import Checkpoints
import ClusterModel
import Collectives
import Compute
import Configuration
import Foundation
import Optimizers
import Schedules
import Tracing
import TrainingData
import TransfusionModel
import Wire

/// One worker's part of one generation: it interprets the schedule on its stage, sums gradients with the
/// other replicas, updates what it owns.
///
/// Confined to the compute thread. Everything that decides a bit - which microbatches form which leaf, the
/// order of sums, who owns which tensor - comes from pure functions of the plan and the configuration.
final class StageExecutor {
  let configuration: RunConfiguration
  let device: any Device
  let link: any Link
  let source: MicrobatchSource
  let plan: Plan
  let place: Place
  let stage: Stage
  let group: ReplicaGroup
  let progress: WorkerProgress

  /// The replica's microbatches, by index in the step.
  let microbatches: Range<Int>
  let schedule: StageSchedule
  let evaluation: StageSchedule
  let validationMicrobatches: Range<Int>
  let prefetcher: MicrobatchPrefetcher

  /// Of each of the stage's tensors, the replica that owns it: sums its gradient, reports its norm, writes it into
  /// checkpoints.
  let owners: [Int]
  /// The tensors this worker owns: their place in `stage.parameters`, and where their moments lie.
  let owned: [OwnedTensor]
  /// The tensors whose state this worker keeps beside their owner, in case that goes: their moments lie behind those of
  /// the owned ones.
  let backed: [OwnedTensor]
  let firstMoments: Tensor
  let secondMoments: Tensor
  /// The sums of the owned tensors' gradients, in flat layout, from `run` to `update`: one of the leaf sums, where
  /// they lie.
  var summed: Tensor?
  /// The state that the owned tensors are in.
  var heldStep: Step
  /// Whether the parameters that other replicas own are of the same state.
  var isGathered = true
  /// Whether the state is here at all: false while it is loaded.
  var isComplete = true
  let squares: Tensor

  var sums: LeafSums
  /// Targets and images of the microbatch in each slot.
  var counts: [Denominators]
  var phases = PhaseSeconds()
  let trace: TraceRecorder
  let clock = ContinuousClock()

  struct OwnedTensor {
    /// Index in `stage.parameters`.
    let index: Int
    /// First element in the moments' flat tensors.
    let offset: Int
  }

  init(
    configuration: RunConfiguration, plan: Plan, place: Place, fromStep: Step, device: any Device, link: any Link,
    source: MicrobatchSource, progress: WorkerProgress, trace: TraceRecorder
  ) throws {
    self.trace = trace
    heldStep = fromStep
    self.configuration = configuration
    self.device = device
    self.link = link
    self.source = source
    self.plan = plan
    self.place = place
    self.progress = progress
    let shape = configuration.shape
    microbatches = shape.microbatches(ofLeaves: plan.replicaLeaves[place.replica])
    let training = Schedule.training(plan.schedule, stages: plan.stageCount, microbatches: microbatches.count)
    try training.validate()
    schedule = training.stages[place.stage]
    // Validation microbatches are dealt in equal contiguous shares: their losses are added by index, so the
    // share changes nothing.
    let count = configuration.validation.microbatches
    validationMicrobatches =
      count * place.replica / plan.replicaCount..<count * (place.replica + 1) / plan.replicaCount
    let forwardOnly = Schedule.evaluation(stages: plan.stageCount, microbatches: validationMicrobatches.count)
    try forwardOnly.validate()
    evaluation = forwardOnly.stages[place.stage]

    let stage = try Stage(
      configuration.model, units: plan.stageUnits[place.stage], limits: source.limits,
      precision: configuration.training.precision, recompute: configuration.training.recompute,
      slots: max(schedule.slots, evaluation.slots, 1), device: device, isShared: plan.replicaCount > 1,
      // With one slot, a backward pass ends before the next forward pass begins.
      hasPassingGradient: schedule.slots == 1 && shape.microbatchesPerLeaf == 1)
    self.stage = stage
    counts = [Denominators](repeating: Denominators(targetTokens: 0, images: 0), count: stage.slotCount)

    let sizes = stage.parameters.map { $0.specification.count }
    owners = TensorOwnership.assign(sizes: sizes, replicas: plan.replicaCount)
    var offset = 0
    var owned: [OwnedTensor] = []
    for index in stage.parameters.indices where owners[index] == place.replica {
      owned.append(OwnedTensor(index: index, offset: offset))
      offset += sizes[index]
    }
    self.owned = owned
    var backed: [OwnedTensor] = []
    for index in stage.parameters.indices
    where TensorOwnership.backup(of: owners[index], replicas: plan.replicaCount) == place.replica {
      backed.append(OwnedTensor(index: index, offset: offset))
      offset += sizes[index]
    }
    self.backed = backed
    firstMoments = try device.allocate(.float32, [max(offset, 1)])
    secondMoments = try device.allocate(.float32, [max(offset, 1)])
    squares = try device.allocate(.float64, [max(owned.count, 1)])

    group = try ReplicaGroup(
      link: link, device: device, leaves: shape.leaves, replicaLeaves: plan.replicaLeaves,
      members: plan.places.map { $0[place.stage] }, replica: place.replica, stage: place.stage,
      tensors: stage.parameters.map { ReplicaGroup.TensorSpan(offset: $0.offset, count: $0.specification.count) },
      owners: owners)
    sums = LeafSums(leaves: shape.leaves, passing: stage.passingGradient) { try stage.makeGradient() }
    prefetcher = MicrobatchPrefetcher(
      source: source, from: fromStep, range: microbatches, parts: Self.parts(stage))
  }

  /// Middle stages need to know who attends to whom, and nothing of tokens or images.
  static func parts(_ stage: Stage) -> MicrobatchParts {
    (stage.isFirst ? MicrobatchParts.input : []).union(stage.isLast ? .output : [])
  }

  func stop() { prefetcher.stop() }

  /// Adds the time that `body` takes to a phase, less what other phases took inside it, and keeps it in the trace.
  func timed<Value, Failure: Error>(
    _ phase: WritableKeyPath<PhaseSeconds, Double>, _ activity: TraceSpan.Activity, step: Step, microbatch: Int? = nil,
    _ body: () throws(Failure) -> Value
  ) throws(Failure) -> Value {
    let start = clock.now
    let others = phases.total
    defer { phases[keyPath: phase] += (clock.now - start) / .seconds(1) - (phases.total - others) }
    return try trace.measure(activity, step: step, microbatch: microbatch, body)
  }
}

extension PhaseSeconds {
  var total: Double { forward + backward + receive + reduce + update + data + checkpoint }
}
