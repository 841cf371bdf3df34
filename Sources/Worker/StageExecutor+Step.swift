import ClusterModel
import Collectives
import Compute
import Foundation
import TransfusionModel
import Wire

extension StageExecutor {
  /// Computes the gradients of a step and sums them: everything up to the point where all stages' norms are
  /// needed.
  func run(step: Step) throws -> Reduced {
    phases = PhaseSeconds()
    summed = nil
    let denominators = try source.denominators(step: step)
    let start = clock.now
    var losses: [MicrobatchLoss] = []
    var norms: [TensorNorm] = []
    var leafGradient: Tensor?

    for action in schedule.actions {
      try progress.checkGeneration()
      switch action {
      case .receiveActivation(let m):
        progress.enter("receive", step: step)
        // The microbatch says how large its slot is: it comes before the activations that go there.
        try load(m, step: step)
        try receive(.activation, step: step, m, from: place.stage - 1, into: stage.input(slot: schedule.slot(for: m)))
      case .forward(let m):
        progress.enter("forward", step: step)
        if stage.isFirst { try load(m, step: step) }
        timed(\.forward, .forward, step: step, microbatch: index(m)) { stage.forward(slot: schedule.slot(for: m)) }
      case .sendActivation(let m):
        try send(.activation, step: step, m, to: place.stage + 1, stage.output(slot: schedule.slot(for: m)))
      case .receiveGradient(let m):
        progress.enter("receive", step: step)
        try receive(
          .activationGradient, step: step, m, from: place.stage + 1,
          into: stage.outputGradient(slot: schedule.slot(for: m)))
      case .backward(let m):
        progress.enter("backward", step: step)
        try backward(m, step: step, &leafGradient, denominators)
        if stage.isLast { losses.append(try loss(of: index(m), slot: schedule.slot(for: m))) }
      case .sendGradient(let m):
        try send(
          .activationGradient, step: step, m, to: place.stage - 1, stage.inputGradient(slot: schedule.slot(for: m)))
      case .reduce:
        progress.enter("reduce", step: step)
        norms = try timed(\.reduce, .reduce, step: step) { try completeSums(step) }
      case .update, .evaluate:
        break  // The update waits for the coordinator's word: `update(_:)`.
      }
    }
    let seconds = (clock.now - start) / .seconds(1)
    progress.report(
      microbatchesPerSecond: Double(microbatches.count) / max(seconds, 1e-9),
      memoryBytes: progress.memoryBytes)
    progress.enter("barrier", step: step)
    return Reduced(step: step, losses: losses, norms: norms)
  }

  /// The index in the step of a microbatch of this replica.
  func index(_ m: Int) -> Int { microbatches.lowerBound + m }

  /// A microbatch's backward pass; a leaf that ends with it is added to the others. During the last one of the
  /// step, gradients that are final leave for the replicas that own them.
  private func backward(
    _ m: Int, step: Step, _ leafGradient: inout Tensor?, _ denominators: Denominators
  ) throws {
    let leafSize = configuration.shape.microbatchesPerLeaf
    let (index, slot) = (index(m), schedule.slot(for: m))
    let leaf = index / leafSize
    let isLastOfStep = m == microbatches.count - 1
    let gradient = try leafGradient ?? sums.begin(leaf: leaf, isLast: isLastOfStep)
    let isFirstOfLeaf = leafGradient == nil
    leafGradient = gradient
    if isLastOfStep { try group.begin(step: step, partials: sums.sums(with: leaf, gradient: gradient)) }
    try timed(\.backward, .backward, step: step, microbatch: index) {
      try stage.backward(slot: slot, gradient: gradient, denominators: denominators, accumulate: !isFirstOfLeaf) {
        tensors in
        guard isLastOfStep, !tensors.isEmpty else { return }
        try timed(\.reduce, .reduce, step: step) {
          sums.add(leaf: leaf, gradient: gradient, elements: elements(of: tensors), on: device)
          try group.finished(tensors: tensors)
        }
      }
    }
    if isLastOfStep {
      sums.settle(leaf: leaf, gradient: gradient)
    } else if (index + 1) % leafSize == 0 {
      timed(\.reduce, .reduce, step: step) { sums.finish(leaf: leaf, gradient: gradient, on: device) }
      leafGradient = nil
    }
  }

  /// The elements of the flat gradient that hold some of the stage's tensors.
  private func elements(of tensors: Range<Int>) -> Range<Int> {
    let (first, last) = (stage.parameters[tensors.lowerBound], stage.parameters[tensors.upperBound - 1])
    return first.offset..<last.offset + last.specification.count
  }

  /// Waits for the other replicas' parts of the sums, and exchanges whole ones with the backups.
  private func completeSums(_ step: Step) throws -> [TensorNorm] {
    let gradient = sums.finished[try group.complete()].gradient
    // Back to the pool, which nobody draws from before the next step.
    sums.reset()
    for tensor in owned {
      guard let backup = TensorOwnership.backup(of: place.replica, replicas: plan.replicaCount) else { break }
      let sum = sum(of: tensor, in: gradient)
      let worker = plan.places[backup][place.stage]
      // Nothing is added to it any more: the backup has taken it before it says that its sums are complete, and the next
      // step begins after that.
      if let bytes = try device.sharedBytes(of: sum) {
        try link.lend(sumKey(tensor, step), to: [worker], [bytes])
      } else {
        try link.send(sumKey(tensor, step), to: [worker], byteCount: sum.count * sum.type.sizeBytes) {
          try device.download(sum, into: $0)
        }
      }
    }
    for (position, tensor) in owned.enumerated() {
      device.sumOfSquares(sum(of: tensor, in: gradient), into: squares, at: position)
    }
    let values = try device.doubles(squares)
    for tensor in backed {
      let sum = sum(of: tensor, in: gradient)
      let size = sum.type.sizeBytes
      try link.withReceived(
        sumKey(tensor, step), from: plan.places[owners[tensor.index]][place.stage], byteCount: sum.count * size
      ) { bytes, offset in
        device.upload(bytes, to: sum.slice(at: offset / size, shape: [bytes.count / size]))
      }
    }
    summed = gradient
    return owned.enumerated().map { position, tensor in
      TensorNorm(tensor: UInt32(stage.parameters[tensor.index].tensorIndex), sumOfSquares: values[position])
    }
  }

  private func sum(of tensor: OwnedTensor, in gradient: Tensor) -> Tensor {
    gradient.slice(at: stage.parameters[tensor.index].offset, shape: [count(of: tensor)])
  }

  private func sumKey(_ tensor: OwnedTensor, _ step: Step) -> FrameKey {
    FrameKey(kind: .wholeSum, step: step, stage: UInt32(place.stage), part: UInt32(tensor.index))
  }

  private func load(_ m: Int, step: Step) throws {
    let content = try timed(\.data, .dataWait, step: step, microbatch: index(m)) {
      try prefetcher.next(step: step, microbatch: index(m))
    }
    guard let content else { throw WorkerError.step(reason: "the data thread stopped") }
    load(content, slot: schedule.slot(for: m))
  }

  func load(_ content: Microbatch, slot: Int) {
    stage.load(content, slot: slot)
    counts[slot] = Denominators(targetTokens: content.targetPositions.count, images: content.images)
  }

  func loss(of index: Int, slot: Int) throws -> MicrobatchLoss {
    let sums = try stage.losses(slot: slot)
    return MicrobatchLoss(
      microbatch: UInt32(index), languageModelSum: sums.languageModelSum,
      targetTokens: UInt64(counts[slot].targetTokens),
      diffusionSum: sums.diffusionSum, images: UInt64(counts[slot].images))
  }

  func count(of tensor: OwnedTensor) -> Int { stage.parameters[tensor.index].specification.count }
}
