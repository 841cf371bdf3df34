import ClusterModel
import TransfusionModel
import Wire

extension StageExecutor {
  /// Losses of the validation microbatches at the present state.
  func evaluate(step: Step) throws -> Evaluated {
    // Sums may lie where activations go.
    summed = nil
    var losses: [MicrobatchLoss] = []
    for action in evaluation.actions {
      try progress.checkGeneration()
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
        trace.measure(.evaluate, step: step, microbatch: index) { stage.evaluate(slot: slot) }
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
}
