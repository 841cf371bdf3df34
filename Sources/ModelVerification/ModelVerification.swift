import Compute
import Optimizers
import TransfusionModel

/// Runs a reference file through the compute core and compares everything it holds.
public struct ModelVerification {
  public struct Options: Hashable, Sendable {
    public var precision: Precision
    /// Stages that the model is cut into, all in this process; at most its units.
    public var stages: Int
    public var recompute: Recompute
    public init(precision: Precision = .float32, stages: Int = 1, recompute: Recompute = .nothing) {
      self.precision = precision
      self.stages = stages
      self.recompute = recompute
    }
  }

  /// How far one group of numbers is from the reference.
  public struct Group: Hashable, Sendable {
    public var name: String
    public var tensors: [TensorError]
    /// The largest error of the group's tensors.
    public var error: Double { tensors.reduce(0) { max($0, $1.error) } }
    /// The tensor it is in.
    public var worst: String { tensors.max { $0.error < $1.error }?.tensor ?? "" }
  }

  /// The largest error within a tensor relative to the largest magnitude: of the reference's tensor, and for
  /// updated parameters of the whole group. (AdamW divides a gradient by its own size, so an element whose
  /// gradient is zero up to rounding may move by a whole learning rate in either direction, in PyTorch as well:
  /// beside small tensors that is no measure.) Infinite where something is not a number.
  public struct TensorError: Hashable, Sendable {
    public var tensor: String
    public var error: Double
  }

  private let reference: ReferenceFile
  private let device: any Device
  private let stages: [Stage]
  private let gradients: [Tensor]
  private let firstMoments: [Tensor]
  private let secondMoments: [Tensor]
  private var groups: [Group] = []

  /// - Returns: hidden states, logits, epsilon, losses, gradients, and parameters after steps 1 to 3.
  /// - Throws: what reading the file or the device throws.
  public static func run(_ reference: ReferenceFile, options: Options, device: any Device) throws -> [Group] {
    var verification = try ModelVerification(reference, options, device)
    try verification.run()
    return verification.groups
  }

  private init(_ reference: ReferenceFile, _ options: Options, _ device: any Device) throws {
    self.reference = reference
    self.device = device
    let model = reference.configuration
    let count = min(max(options.stages, 1), model.unitCount)
    stages = try (0..<count).map { stage in
      try Stage(
        model, units: model.unitCount * stage / count..<model.unitCount * (stage + 1) / count,
        limits: reference.limits, precision: options.precision, recompute: options.recompute, slots: 1, device: device)
    }
    gradients = try stages.map { try $0.makeGradient() }
    firstMoments = try stages.map { try $0.makeGradient() }
    secondMoments = try stages.map { try $0.makeGradient() }
    for stage in stages {
      for parameter in stage.parameters {
        let specification = parameter.specification
        let values = try reference.doubles("/param/\(specification.name)", shape: specification.shape)
        device.upload(values.map { Float($0) }, to: parameter.view(of: stage.values))
      }
      stage.refreshComputeCopies()
      stage.load(reference.microbatch, slot: 0)
    }
  }

  private mutating func run() throws {
    var losses = Comparison("losses")
    var parameters: [Group] = []
    for step in 0...3 {
      forward()
      if step == 0 { try compareForward() }
      backward()
      let (languageModel, diffusion) = try meanLosses()
      let total = languageModel + reference.configuration.diffusionWeight * diffusion
      if step == 0 {
        losses.add("lm_loss", [languageModel], [try reference.attribute("lm_loss")])
        losses.add("ddpm_loss", [diffusion], [try reference.attribute("ddpm_loss")])
        losses.add("loss", [total], [try reference.attribute("loss")])
        try compareGradients()
      } else {
        losses.add("loss_after_step\(step)", [total], [try reference.attribute("loss_after_step\(step)")])
      }
      if step == 3 { break }
      let sumOfSquares = try gradientSumOfSquares()
      if step == 0 {
        losses.add("grad_norm", [sumOfSquares.squareRoot()], [try reference.attribute("grad_norm")])
      }
      update(step: UInt64(step), sumOfSquares: sumOfSquares)
      parameters.append(try compareParameters(after: step + 1))
    }
    let gradientGroup = groups.removeLast()
    groups += [losses.group, gradientGroup] + parameters
  }

  // MARK: A step

  private func forward() {
    for (index, stage) in stages.enumerated() {
      if index > 0 { device.copy(stages[index - 1].output(slot: 0), to: stage.input(slot: 0)) }
      stage.forward(slot: 0)
    }
  }

  private func backward() {
    let batch = reference.microbatch
    let denominators = Denominators(targetTokens: batch.targetPositions.count, images: batch.images)
    for (index, stage) in stages.enumerated().reversed() {
      if index + 1 < stages.count {
        device.copy(stages[index + 1].inputGradient(slot: 0), to: stage.outputGradient(slot: 0))
      }
      device.fill(gradients[index], with: 0)
      stage.backward(slot: 0, gradient: gradients[index], denominators: denominators)
    }
  }

  private func meanLosses() throws -> (languageModel: Double, diffusion: Double) {
    let sums = try stages[stages.count - 1].losses(slot: 0)
    let batch = reference.microbatch
    return (
      sums.languageModelSum / Double(max(batch.targetPositions.count, 1)),
      sums.diffusionSum / Double(max(batch.images, 1))
    )
  }

  private func gradientSumOfSquares() throws -> Double {
    let count = stages.reduce(0) { $0 + $1.parameters.count }
    let squares = try device.allocate(.float64, [count])
    for (stage, gradient) in zip(stages, gradients) {
      for parameter in stage.parameters {
        device.sumOfSquares(parameter.view(of: gradient), into: squares, at: parameter.tensorIndex)
      }
    }
    return try device.doubles(squares).reduce(0, +)
  }

  /// The reference decays every tensor and keeps its learning rate.
  private func update(step: UInt64, sumOfSquares: Double) {
    let optimizer = AdamWConfiguration(clipNorm: reference.clipNorm, decayNormsAndBiases: true)
    let scale = ClipScale.scale(sumOfSquares: sumOfSquares, limit: optimizer.clipNorm)
    for (index, stage) in stages.enumerated() {
      for parameter in stage.parameters {
        device.adamW(
          parameter.view(of: stage.values), gradient: parameter.view(of: gradients[index]),
          firstMoment: parameter.view(of: firstMoments[index]), secondMoment: parameter.view(of: secondMoments[index]),
          computeCopy: stage.computeCopy(of: parameter),
          optimizer.step(
            step, learningRate: reference.learningRate, gradientScale: scale, decays: parameter.specification.decays))
      }
    }
  }

  // MARK: Comparisons

  private mutating func compareForward() throws {
    let (model, batch) = (reference.configuration, reference.microbatch)
    var hidden = Comparison("hidden states")
    for layer in 0...model.layers {
      // A unit at a cut is entered on two stages; the later one owns it.
      let owner = stages.last { $0.units.contains(layer + 1) || ($0.isLast && layer == model.layers) }
      guard let owner else { preconditionFailure("unit \(layer + 1) belongs to a stage") }
      hidden.add(
        "layer \(layer)", try owner.hiddenState(slot: 0, entering: layer + 1),
        try reference.doubles("/forward/hidden/\(layer)", shape: [batch.rows, batch.length, model.width]))
    }
    var (logits, epsilon) = (Comparison("logits"), Comparison("epsilon"))
    let last = stages[stages.count - 1]
    logits.add(
      "logits", try last.logits(slot: 0),
      try reference.doubles("/forward/logits", shape: [batch.targetPositions.count, model.vocabulary]))
    let size = model.latentSize
    let expected = try reference.doubles("/forward/epsilon", shape: [batch.images, model.channels, size, size])
    epsilon.add("epsilon", try last.predictedNoise(slot: 0), model.cutIntoPatches(expected))
    groups += [hidden.group, logits.group, epsilon.group]
  }

  private mutating func compareGradients() throws {
    groups.append(try compare(Comparison("gradients"), gradients, with: "/grad"))
  }

  private func compareParameters(after step: Int) throws -> Group {
    try compare(
      Comparison("parameters after step \(step)", sharesMagnitude: true), stages.map(\.values), with: "/step\(step)")
  }

  private func compare(_ empty: Comparison, _ flats: [Tensor], with group: String) throws -> Group {
    var comparison = empty
    for (stage, flat) in zip(stages, flats) {
      for parameter in stage.parameters {
        let specification = parameter.specification
        comparison.add(
          specification.name, try device.floats(parameter.view(of: flat)),
          try reference.doubles("\(group)/\(specification.name)", shape: specification.shape))
      }
    }
    return comparison.group
  }
}

/// Gathers the tensors of one group.
private struct Comparison {
  private let name: String
  private let sharesMagnitude: Bool
  private var found: [(tensor: String, error: Double, magnitude: Double)] = []

  /// - Parameter sharesMagnitude: measure every tensor by the largest magnitude in the group.
  init(_ name: String, sharesMagnitude: Bool = false) {
    self.name = name
    self.sharesMagnitude = sharesMagnitude
  }

  mutating func add<Element: BinaryFloatingPoint>(_ tensor: String, _ values: [Element], _ expected: [Double]) {
    precondition(values.count == expected.count, "\(tensor) has another size than its reference")
    var (magnitude, error) = (0.0, 0.0)
    for (value, reference) in zip(values, expected) {
      magnitude = max(magnitude, abs(reference))
      let difference = abs(Double(value) - reference)
      error = difference.isNaN ? .infinity : max(error, difference)
    }
    found.append((tensor, error, magnitude))
  }

  var group: ModelVerification.Group {
    let largest = found.reduce(0) { max($0, $1.magnitude) }
    let tensors = found.map { entry in
      let magnitude = sharesMagnitude ? largest : entry.magnitude
      // Where the reference is zero throughout, the error itself counts.
      return ModelVerification.TensorError(
        tensor: entry.tensor, error: magnitude > 0 ? entry.error / magnitude : entry.error)
    }
    return ModelVerification.Group(name: name, tensors: tensors)
  }
}
