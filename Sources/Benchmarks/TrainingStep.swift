import Compute
import Optimizers
import TransfusionModel

/// A worker's step without any other worker: the calls that it makes, in its order.
package final class TrainingStep {
  private let device: CPUDevice
  private let stage: Stage
  private let gradient, firstMoments, secondMoments: Tensor
  private let squares: Tensor
  private let optimizer = AdamWConfiguration()
  private let clock = ContinuousClock()
  /// Of the last step.
  package private(set) var loss = 0.0

  package init(
    _ model: ModelConfiguration, limits: MicrobatchLimits, precision: Precision, recompute: Recompute, device: CPUDevice
  ) throws {
    self.device = device
    stage = try Stage(
      model, units: 0..<model.unitCount, limits: limits, precision: precision, recompute: recompute, slots: 1,
      device: device, hasPassingGradient: true)
    guard let passing = stage.passingGradient else { preconditionFailure("a stage without the gradient asked for") }
    gradient = passing
    firstMoments = try stage.makeGradient()
    secondMoments = try stage.makeGradient()
    squares = try device.allocate(.float64, [stage.parameters.count])
    stage.initialise(seed: 1)
  }

  package func run(_ batch: Microbatch, step: UInt64) throws -> PhaseTimes {
    var times = PhaseTimes()
    let start = clock.now
    var last = start
    /// Gives the time since the last call to a phase.
    func mark(_ phase: PhaseTimes.Phase) {
      let now = clock.now
      times[phase] += (now - last) / .seconds(1)
      last = now
    }
    let denominators = Denominators(targetTokens: batch.targetPositions.count, images: batch.images)
    stage.load(batch, slot: 0)
    mark(.load)
    stage.forward(slot: 0)
    mark(.forward)
    // The output side is the first whose gradients are final.
    var headIsDone = false
    stage.backward(slot: 0, gradient: gradient, denominators: denominators, accumulate: false) { _ in
      if !headIsDone { mark(.head) }
      headIsDone = true
    }
    let sums = try stage.losses(slot: 0)
    loss =
      sums.languageModelSum / Double(max(denominators.targetTokens, 1))
      + stage.configuration.diffusionWeight * sums.diffusionSum / Double(max(denominators.images, 1))
    mark(.backward)
    let sum = try sumOfSquares()
    mark(.norm)
    update(step: step, scale: ClipScale.scale(sumOfSquares: sum, limit: optimizer.clipNorm))
    try device.wait()
    mark(.update)
    times.total = (clock.now - start) / .seconds(1)
    return times
  }

  /// Of the whole gradient, added in tensor order.
  private func sumOfSquares() throws -> Double {
    for (index, parameter) in stage.parameters.enumerated() {
      device.sumOfSquares(parameter.view(of: gradient), into: squares, at: index)
    }
    return try device.doubles(squares).reduce(0, +)
  }

  private func update(step: UInt64, scale: Float) {
    for parameter in stage.parameters {
      device.adamW(
        parameter.view(of: stage.values), gradient: parameter.view(of: gradient),
        firstMoment: parameter.view(of: firstMoments), secondMoment: parameter.view(of: secondMoments),
        computeCopy: stage.computeCopy(of: parameter),
        optimizer.step(step, learningRate: 3e-4, gradientScale: scale, decays: parameter.specification.decays))
    }
  }
}
