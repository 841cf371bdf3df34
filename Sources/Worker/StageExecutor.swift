import Checkpoints
import ClusterModel
import Collectives
import Compute
import Configuration
import Foundation
import Optimizers
import Schedules
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
  private let prefetcher: MicrobatchPrefetcher

  /// Of each of the stage's tensors, the replica that owns it.
  let owners: [Int]
  /// The tensors this worker owns: their place in `stage.parameters`, and where their moments lie.
  let owned: [OwnedTensor]
  let firstMoments: Tensor
  let secondMoments: Tensor
  /// Summed gradients of the owned tensors end here.
  let summed: Tensor
  private let squares: Tensor

  var sums: LeafSums
  private var boundary: [UInt8]
  /// Targets and images of the microbatch in each slot.
  private var counts: [Denominators]
  var phases = PhaseSeconds()
  private let clock = ContinuousClock()

  struct OwnedTensor {
    /// Index in `stage.parameters`.
    let index: Int
    /// First element in the moments' and the summed gradient's flat tensors.
    let offset: Int
  }

  init(
    configuration: RunConfiguration, plan: Plan, place: Place, fromStep: Step, device: any Device, link: any Link,
    source: MicrobatchSource, progress: WorkerProgress
  ) throws {
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
      slots: max(schedule.slots, evaluation.slots, 1), device: device)
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
    firstMoments = try device.allocate(.float32, [max(offset, 1)])
    secondMoments = try device.allocate(.float32, [max(offset, 1)])
    summed = try device.allocate(.float32, [max(offset, 1)])
    squares = try device.allocate(.float64, [max(owned.count, 1)])

    group = try ReplicaGroup(
      link: link, device: device, leaves: shape.leaves, replicaLeaves: plan.replicaLeaves,
      members: plan.places.map { $0[place.stage] }, replica: place.replica, stage: place.stage,
      tensors: stage.parameters.map { ReplicaGroup.TensorSpan(offset: $0.offset, count: $0.specification.count) },
      owners: owners)
    sums = LeafSums(leaves: shape.leaves) { try stage.makeGradient() }
    let elements = source.limits.rows * source.limits.length * configuration.model.width
    boundary = [UInt8](repeating: 0, count: elements * ElementType.float32.sizeBytes)
    prefetcher = MicrobatchPrefetcher(
      source: source, from: fromStep, range: microbatches, parts: Self.parts(stage))
  }

  /// Middle stages need to know who attends to whom, and nothing of tokens or images.
  private static func parts(_ stage: Stage) -> MicrobatchParts {
    (stage.isFirst ? MicrobatchParts.input : []).union(stage.isLast ? .output : [])
  }

  func stop() { prefetcher.stop() }

  /// Adds the time that `body` takes to a phase.
  func timed<Value>(_ phase: WritableKeyPath<PhaseSeconds, Double>, _ body: () throws -> Value) rethrows -> Value {
    let start = clock.now
    defer { phases[keyPath: phase] += (clock.now - start) / .seconds(1) }
    return try body()
  }
}

// MARK: - Step

extension StageExecutor {
  /// Computes the gradients of a step and sums them: everything up to the point where all stages' norms are
  /// needed.
  func run(step: Step) throws -> Reduced {
    phases = PhaseSeconds()
    let denominators = try source.denominators(step: step)
    let start = clock.now
    var losses: [MicrobatchLoss] = []
    var norms: [TensorNorm] = []
    var leafGradient: Tensor?
    let leafSize = configuration.shape.microbatches / configuration.shape.leaves

    for action in schedule.actions {
      switch action {
      case .receiveActivation(let m):
        progress.enter("receive", step: step)
        // The microbatch says how large its slot is: it comes before the activations that go there.
        try load(m, step: step)
        try receive(.activation, step: step, m, from: place.stage - 1, into: stage.input(slot: schedule.slot(for: m)))
      case .forward(let m):
        progress.enter("forward", step: step)
        if stage.isFirst { try load(m, step: step) }
        timed(\.forward) { stage.forward(slot: schedule.slot(for: m)) }
      case .sendActivation(let m):
        try send(.activation, step: step, m, to: place.stage + 1, stage.output(slot: schedule.slot(for: m)))
      case .receiveGradient(let m):
        progress.enter("receive", step: step)
        try receive(
          .activationGradient, step: step, m, from: place.stage + 1,
          into: stage.outputGradient(slot: schedule.slot(for: m)))
      case .backward(let m):
        progress.enter("backward", step: step)
        let index = microbatches.lowerBound + m
        let slot = schedule.slot(for: m)
        let gradient = try leafGradient ?? sums.begin(on: device)
        leafGradient = gradient
        try timed(\.backward) {
          stage.backward(slot: slot, gradient: gradient, denominators: denominators)
          if stage.isLast { losses.append(try loss(of: index, slot: slot)) }
        }
        if (index + 1) % leafSize == 0 {
          sums.finish(leaf: index / leafSize, gradient: gradient, on: device)
          leafGradient = nil
        }
      case .sendGradient(let m):
        try send(
          .activationGradient, step: step, m, to: place.stage - 1, stage.inputGradient(slot: schedule.slot(for: m)))
      case .reduce:
        progress.enter("reduce", step: step)
        norms = try timed(\.reduce) { try reduce(step: step) }
      case .update, .evaluate:
        break  // The update waits for the coordinator's word: `update(_:)`.
      }
    }
    let seconds = (clock.now - start) / .seconds(1)
    progress.report(
      microbatchesPerSecond: Double(microbatches.count) / max(seconds, 1e-9),
      memoryBytes: UInt64(ProcessMemory.residentBytes))
    progress.enter("barrier", step: step)
    return Reduced(step: step, losses: losses, norms: norms)
  }

  private func load(_ m: Int, step: Step) throws {
    let content = try timed(\.data) { try prefetcher.next(step: step, microbatch: microbatches.lowerBound + m) }
    guard let content else { throw WorkerError.step(reason: "the data thread stopped") }
    load(content, slot: schedule.slot(for: m))
  }

  private func load(_ content: Microbatch, slot: Int) {
    stage.load(content, slot: slot)
    counts[slot] = Denominators(targetTokens: content.targetPositions.count, images: content.images)
  }

  private func loss(of index: Int, slot: Int) throws -> MicrobatchLoss {
    let sums = try stage.losses(slot: slot)
    return MicrobatchLoss(
      microbatch: UInt32(index), languageModelSum: sums.languageModelSum,
      targetTokens: UInt64(counts[slot].targetTokens),
      diffusionSum: sums.diffusionSum, images: UInt64(counts[slot].images))
  }

  private func reduce(step: Step) throws -> [TensorNorm] {
    try group.reduce(
      step: step, partials: sums.finished, into: owned.map { summed.slice(at: $0.offset, shape: [count(of: $0)]) })
    sums.reset()
    for (position, tensor) in owned.enumerated() {
      device.sumOfSquares(summed.slice(at: tensor.offset, shape: [count(of: tensor)]), into: squares, at: position)
    }
    var values = [Double](repeating: 0, count: squares.count)
    var failure: DeviceError?
    values.withUnsafeMutableBytes { bytes in
      do throws(DeviceError) { try device.download(squares, into: bytes) } catch { failure = error }
    }
    if let failure { throw failure }
    return owned.enumerated().map { position, tensor in
      TensorNorm(tensor: UInt32(stage.parameters[tensor.index].tensorIndex), sumOfSquares: values[position])
    }
  }

  func count(of tensor: OwnedTensor) -> Int { stage.parameters[tensor.index].specification.count }

  /// Applies the optimizer to what this worker owns and gathers the rest: the stage then holds state step + 1.
  func update(_ update: Update) throws -> Updated {
    progress.enter("update", step: update.step)
    try timed(\.update) {
      let optimizer = configuration.adamW
      let rate = configuration.learningRate.rate(update.step)
      let scale = ClipScale.scale(sumOfSquares: update.gradientSumOfSquares, limit: configuration.optimizer.clipNorm)
      for tensor in owned {
        let parameter = stage.parameters[tensor.index]
        let count = count(of: tensor)
        device.adamW(
          stage.values.slice(at: parameter.offset, shape: [count]),
          gradient: summed.slice(at: tensor.offset, shape: [count]),
          firstMoment: firstMoments.slice(at: tensor.offset, shape: [count]),
          secondMoment: secondMoments.slice(at: tensor.offset, shape: [count]), computeCopy: nil,
          optimizer.step(
            update.step, learningRate: rate, gradientScale: scale, decays: parameter.specification.decays))
      }
      progress.enter("gather", step: update.step)
      try group.gather(step: update.step, values: stage.values)
      stage.refreshComputeCopies()
      try device.wait()
    }
    progress.enter("barrier", step: update.step)
    return Updated(step: update.step, phases: phases, memoryBytes: UInt64(ProcessMemory.residentBytes))
  }

  /// Losses of the validation microbatches at the present state.
  func evaluate(step: Step) throws -> Evaluated {
    var losses: [MicrobatchLoss] = []
    for action in evaluation.actions {
      switch action {
      case .receiveActivation(let m):
        progress.enter("receive", step: step)
        try loadValidation(m)
        try receive(
          .validationActivation, step: step, m, from: place.stage - 1, into: stage.input(slot: evaluation.slot(for: m)))
      case .evaluate(let m):
        progress.enter("evaluate", step: step)
        let index = validationMicrobatches.lowerBound + m
        let slot = evaluation.slot(for: m)
        if stage.isFirst { try loadValidation(m) }
        stage.evaluate(slot: slot)
        if stage.isLast { losses.append(try loss(of: index, slot: slot)) }
      case .sendActivation(let m):
        try send(.validationActivation, step: step, m, to: place.stage + 1, stage.output(slot: evaluation.slot(for: m)))
      case .forward, .backward, .receiveGradient, .sendGradient, .reduce, .update:
        preconditionFailure("\(action) in a forward-only schedule")
      }
    }
    progress.enter("barrier", step: step)
    return Evaluated(step: step, losses: losses)
  }

  private func loadValidation(_ m: Int) throws {
    let index = validationMicrobatches.lowerBound + m
    load(try source.validationMicrobatch(index: index, parts: Self.parts(stage)), slot: evaluation.slot(for: m))
  }

  // MARK: Boundaries

  private func key(_ kind: FrameKey.Kind, _ step: Step, _ m: Int, stage: Int) -> FrameKey {
    FrameKey(kind: kind, step: step, microbatch: UInt32(m), stage: UInt32(stage))
  }

  private func send(_ kind: FrameKey.Kind, step: Step, _ m: Int, to stage: Int, _ tensor: Tensor) throws {
    let bytes = tensor.count * tensor.type.sizeBytes
    var failure: (any Error)?
    boundary.withUnsafeMutableBytes { buffer in
      let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<bytes])
      do {
        try device.download(tensor, into: part)
        try link.send(
          key(kind, step, m, stage: place.stage), to: plan.places[place.replica][stage], UnsafeRawBufferPointer(part))
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
  }

  private func receive(_ kind: FrameKey.Kind, step: Step, _ m: Int, from stage: Int, into tensor: Tensor) throws {
    let bytes = tensor.count * tensor.type.sizeBytes
    var failure: (any Error)?
    timed(\.receive) {
      boundary.withUnsafeMutableBytes { buffer in
        let part = UnsafeMutableRawBufferPointer(rebasing: buffer[..<bytes])
        do {
          try link.receive(key(kind, step, m, stage: stage), from: plan.places[place.replica][stage], into: part)
          device.upload(UnsafeRawBufferPointer(part), to: tensor)
        } catch {
          failure = error
        }
      }
    }
    if let failure { throw failure }
  }
}
