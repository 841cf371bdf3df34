import Compute
import Randomness
import Testing
import TransfusionModel

/// Small models and microbatches for tests, made from a seed.
enum Sample {
  /// Grouped key-value heads, 4 patches an image.
  static var model: ModelConfiguration {
    var model = ModelConfiguration(
      layers: 2, width: 16, heads: 4, keyValueHeads: 2, feedForwardWidth: 24, vocabulary: 32, channels: 2,
      latentSize: 4, patch: 2)
    model.timeChannels = 32
    model.initialDeviation = 0.2
    return model
  }
  static let limits = MicrobatchLimits(rows: 2, length: 24, images: 4)

  enum Document { case text, captionFirst, imageFirst }

  /// Rows of documents, padded at the end.
  static func microbatch(
    _ documents: [[Document]], of model: ModelConfiguration = Sample.model, limits: MicrobatchLimits = Sample.limits,
    seed: UInt64 = 1
  ) -> Microbatch {
    let random = CounterStream(seed: seed, purpose: .validationOrder, stream: 0)
    var drawn: UInt64 = 0
    func draw(below bound: Int) -> Int32 {
      drawn += 1
      return Int32(random.integer(drawn, below: UInt32(bound)))
    }
    var batch = Microbatch(
      rows: documents.count, length: limits.length, tokens: [], keyStart: [], keyEnd: [], targetPositions: [],
      targetTokens: [], patchPositions: [], clean: [], noise: [], timesteps: [])
    for (row, kinds) in documents.enumerated() {
      for kind in kinds {
        append(kind, to: &batch, words: 4, patches: model.patchesPerImage) { draw(below: $0 ?? model.vocabulary) }
      }
      while batch.tokens.count < (row + 1) * limits.length {
        batch.keyStart.append(Int32(batch.tokens.count))
        batch.tokens.append(0)
        batch.keyEnd.append(Int32(batch.tokens.count))
      }
      precondition(batch.tokens.count == (row + 1) * limits.length, "a row does not hold its documents")
    }
    batch.clean = [Float](repeating: 0, count: batch.patchPositions.count * model.patchElements)
    batch.noise = batch.clean
    CounterStream(seed: seed, purpose: .latentSample, stream: 0).fillGaussian(&batch.clean)
    CounterStream(seed: seed, purpose: .noise, stream: 0).fillGaussian(&batch.noise)
    return batch
  }

  private static func append(
    _ kind: Document, to batch: inout Microbatch, words: Int, patches: Int, draw: (_ bound: Int?) -> Int32
  ) {
    let start = batch.tokens.count
    func token() { batch.tokens.append(draw(nil)) }
    func image() {
      token()
      batch.timesteps.append(draw(1_000))
      for _ in 0..<patches {
        batch.patchPositions.append(Int32(batch.tokens.count))
        batch.tokens.append(-1)
      }
      token()
    }
    func caption() { for _ in 0..<words { token() } }
    switch kind {
    case .text: caption()
    case .captionFirst:
      caption()
      image()
    case .imageFirst:
      image()
      caption()
    }
    token()
    let end = batch.tokens.count
    for t in start..<end {
      var keyEnd = t + 1
      if batch.tokens[t] < 0 { while batch.tokens[keyEnd] < 0 { keyEnd += 1 } }
      batch.keyStart.append(Int32(start))
      batch.keyEnd.append(Int32(keyEnd))
      if t + 1 < end && batch.tokens[t] >= 0 && batch.tokens[t + 1] >= 0 {
        batch.targetPositions.append(Int32(t))
        batch.targetTokens.append(batch.tokens[t + 1])
      }
    }
  }

  static var mixed: Microbatch { microbatch([[.captionFirst, .text], [.imageFirst, .text, .text]]) }
}

extension Microbatch {
  var denominators: Denominators { Denominators(targetTokens: targetPositions.count, images: images) }
}

/// A model cut into stages on one device, run as one.
struct Pipeline {
  let device: any Device
  let stages: [Stage]
  let gradients: [Tensor]

  init(
    _ model: ModelConfiguration = Sample.model, cuts: [Range<Int>]? = nil, limits: MicrobatchLimits = Sample.limits,
    precision: Precision = .float32, recompute: Recompute = .nothing, slots: Int = 1, seed: UInt64 = 5,
    hasPassingGradients: Bool = false, device: any Device
  ) throws {
    self.device = device
    stages = try (cuts ?? [0..<model.unitCount]).map {
      try Stage(
        model, units: $0, limits: limits, precision: precision, recompute: recompute, slots: slots, device: device,
        hasPassingGradient: hasPassingGradients)
    }
    gradients = try stages.map { try $0.passingGradient ?? $0.makeGradient() }
    for stage in stages { stage.initialise(seed: seed) }
  }

  func forward(_ microbatch: Microbatch, slot: Int = 0) {
    for (index, stage) in stages.enumerated() {
      stage.load(microbatch, slot: slot)
      if index > 0 { device.copy(stages[index - 1].output(slot: slot), to: stage.input(slot: slot)) }
      stage.forward(slot: slot)
    }
  }

  func backward(slot: Int = 0, denominators: Denominators, accumulate: Bool = true) {
    for (index, stage) in stages.enumerated().reversed() {
      if index + 1 < stages.count {
        device.copy(stages[index + 1].inputGradient(slot: slot), to: stage.outputGradient(slot: slot))
      }
      stage.backward(slot: slot, gradient: gradients[index], denominators: denominators, accumulate: accumulate)
    }
  }

  /// The loss of a step of this microbatch alone, or a part of a larger one.
  func loss(_ microbatch: Microbatch, denominators: Denominators? = nil) throws -> Double {
    for (index, stage) in stages.enumerated() {
      stage.load(microbatch, slot: 0)
      if index > 0 { device.copy(stages[index - 1].output(slot: 0), to: stage.input(slot: 0)) }
      stage.evaluate(slot: 0)
    }
    return try total(stages[stages.count - 1].losses(slot: 0), denominators ?? microbatch.denominators)
  }

  func total(_ sums: (languageModelSum: Double, diffusionSum: Double), _ denominators: Denominators) -> Double {
    sums.languageModelSum / Double(max(denominators.targetTokens, 1)) + stages[0].configuration.diffusionWeight
      * sums.diffusionSum / Double(max(denominators.images, 1))
  }

  /// Gradients by tensor name.
  func gradientsByName() throws -> [String: [Float]] { try byName(gradients) }
  func valuesByName() throws -> [String: [Float]] { try byName(stages.map(\.values)) }

  private func byName(_ flats: [Tensor]) throws -> [String: [Float]] {
    var result: [String: [Float]] = [:]
    for (stage, flat) in zip(stages, flats) {
      for parameter in stage.parameters {
        result[parameter.specification.name] = try device.floats(parameter.view(of: flat))
      }
    }
    return result
  }
}

/// Devices that tests run on.
enum TestDevice: String, CaseIterable, CustomTestStringConvertible {
  case exact, rounding, cpu
  var testDescription: String { rawValue }

  func make(threads: Int = 2) throws -> any Device {
    switch self {
    case .exact: ReferenceDevice()
    case .rounding: ReferenceDevice(rounding: .toElementType)
    case .cpu: try CPUDevice(threads: threads)
    }
  }
}
