import Compute
import Optimizers
import TransfusionModel

/// A worker's step without any other worker: the calls that `StageExecutor` makes, in its order.
package final class TrainingStep {
  private let device: CPUDevice
  /// One stage, or two of which the second is the output side.
  private let parts: [Part]
  private let squares: Tensor
  private let optimizer = AdamWConfiguration()
  private let clock = ContinuousClock()
  /// Of the last step.
  package private(set) var loss = 0.0

  private struct Part {
    let stage: Stage
    let gradient, firstMoments, secondMoments: Tensor

    init(
      _ model: ModelConfiguration, units: Range<Int>, limits: MicrobatchLimits, precision: Precision, recompute: Bool,
      device: CPUDevice
    ) throws {
      stage = try Stage(
        model, units: units, limits: limits, precision: precision, recompute: recompute, slots: 1, device: device)
      gradient = try stage.makeGradient()
      firstMoments = try stage.makeGradient()
      secondMoments = try stage.makeGradient()
      stage.initialise(seed: 1)
    }
  }

  /// - Parameter separateOutput: the output side is a stage of its own, so that it has its own seconds.
  package init(
    _ model: ModelConfiguration, limits: MicrobatchLimits, precision: Precision, recompute: Bool, separateOutput: Bool,
    device: CPUDevice
  ) throws {
    self.device = device
    let whole = 0..<model.unitCount
    parts = try (separateOutput ? [whole.dropLast(), whole.suffix(1)] : [whole]).map {
      try Part(model, units: $0, limits: limits, precision: precision, recompute: recompute, device: device)
    }
    squares = try device.allocate(.float64, [parts.reduce(0) { $0 + $1.stage.parameters.count }])
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
    for part in parts {
      part.stage.load(batch, slot: 0)
      device.fill(part.gradient, with: 0)
    }
    mark(.load)
    for (index, part) in parts.enumerated() {
      if index > 0 { device.copy(parts[index - 1].stage.output(slot: 0), to: part.stage.input(slot: 0)) }
      part.stage.forward(slot: 0)
    }
    mark(.forward)
    for (index, part) in parts.enumerated().reversed() {
      if index + 1 < parts.count {
        device.copy(parts[index + 1].stage.inputGradient(slot: 0), to: part.stage.outputGradient(slot: 0))
      }
      part.stage.backward(slot: 0, gradient: part.gradient, denominators: denominators)
      if part.stage.isLast { loss = try self.loss(part.stage, denominators) }
      mark(index == 0 ? .backward : .head)
    }
    let sum = try sumOfSquares()
    mark(.norm)
    update(step: step, scale: ClipScale.scale(sumOfSquares: sum, limit: optimizer.clipNorm))
    mark(.update)
    for part in parts { part.stage.refreshComputeCopies() }
    try device.wait()
    mark(.copies)
    times.total = (clock.now - start) / .seconds(1)
    return times
  }

  private func loss(_ stage: Stage, _ denominators: Denominators) throws -> Double {
    let sums = try stage.losses(slot: 0)
    return sums.languageModelSum / Double(max(denominators.targetTokens, 1))
      + stage.configuration.diffusionWeight * sums.diffusionSum / Double(max(denominators.images, 1))
  }

  /// Of the whole gradient, added in tensor order.
  private func sumOfSquares() throws -> Double {
    var index = 0
    for part in parts {
      for parameter in part.stage.parameters {
        device.sumOfSquares(parameter.view(of: part.gradient), into: squares, at: index)
        index += 1
      }
    }
    var values = [Double](repeating: 0, count: squares.count)
    var failure: DeviceError?
    values.withUnsafeMutableBytes { bytes in
      do throws(DeviceError) { try device.download(squares, into: bytes) } catch { failure = error }
    }
    if let failure { throw failure }
    return values.reduce(0, +)
  }

  private func update(step: UInt64, scale: Float) {
    for part in parts {
      for parameter in part.stage.parameters {
        device.adamW(
          parameter.view(of: part.stage.values), gradient: parameter.view(of: part.gradient),
          firstMoment: parameter.view(of: part.firstMoments), secondMoment: parameter.view(of: part.secondMoments),
          computeCopy: nil,
          optimizer.step(
            step, learningRate: 3e-4, gradientScale: scale, decays: parameter.specification.decays))
      }
    }
  }
}
