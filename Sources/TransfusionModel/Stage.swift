import Compute

/// A contiguous range of a model's units on one device: parameters, buffers for a number of microbatches in
/// flight, and the forward and backward passes.
///
/// Owned by the device's thread. No call but those that return host values waits for the device, and nothing
/// is allocated after `init` except by `makeGradient` and the verification calls. The bits of every result are
/// the same however a model is cut into stages.
public final class Stage {
  /// Noise levels t = 0 ..< noiseLevels.
  public static let noiseLevels = 1_000

  public let configuration: ModelConfiguration
  public let units: Range<Int>
  public let limits: MicrobatchLimits
  public let precision: Precision
  public let device: any Device
  let isShared: Bool
  /// The stage's tensors in canonical order.
  public let parameters: [StageParameter]
  /// Flat float32 master weights; `StageParameter.view` finds a tensor in it.
  public let values: Tensor
  /// A gradient in the memory of slot 0's activations: for a backward pass of that slot which accumulates nothing, and
  /// valid until the slot's next `forward`, `evaluate` or write to `input`. Nil where none was asked for.
  public let passingGradient: Tensor?

  let layout: StageLayout
  /// Flat compute-type copies of the GEMM operands; nil in float32.
  let copies: Tensor?
  let extent: StageExtent
  let context: StageContext
  let slots: [Slot]
  let layers: [TransformerLayer]
  let input: InputUnit?
  let output: OutputUnit?
  private let schedule = NoiseSchedule(steps: Stage.noiseLevels)

  /// - Parameters:
  ///   - units: which units of the model, a non-empty range in 0..<unitCount.
  ///   - recompute: what is made again in the backward pass instead of kept: same bits, less memory, more work.
  ///   - slots: microbatches in flight at once.
  ///   - isShared: other replicas read values and gradients where they lie, on devices that can share memory.
  ///   - hasPassingGradient: makes ``passingGradient``.
  /// - Throws: `ModelConfigurationError`, or `DeviceError` when memory does not suffice.
  public init(
    _ configuration: ModelConfiguration, units: Range<Int>, limits: MicrobatchLimits, precision: Precision,
    recompute: Recompute, slots: Int, device: any Device, isShared: Bool = false, hasPassingGradient: Bool = false
  ) throws {
    try configuration.validate()
    precondition(!units.isEmpty && units.lowerBound >= 0 && units.upperBound <= configuration.unitCount)
    precondition(slots > 0 && limits.rows > 0 && limits.length > 0 && limits.images >= 0)
    self.configuration = configuration
    self.units = units
    self.limits = limits
    self.precision = precision
    self.device = device
    self.isShared = isShared
    let extent = StageExtent(
      model: configuration, units: units, limits: limits, precision: precision, recompute: recompute)
    self.extent = extent
    let layout = StageLayout(configuration, units: units)
    self.layout = layout
    parameters = layout.parameters

    let allocate = TensorAllocator(device)
    let fixed = try FixedTensors(extent, layout, allocate, isShared: isShared)
    values = fixed.values
    copies = fixed.copies
    let workspace = try Workspace(extent, allocate)
    let arena =
      hasPassingGradient
      ? try ActivationArena(extent, layout, remade: workspace.remade, device: device, isShared: isShared) : nil
    passingGradient = arena?.gradient
    self.slots = try (0..<slots).map { slot in
      try Slot(extent, allocate, remade: workspace.remade, arena: slot == 0 ? arena : nil)
    }
    context = StageContext(
      device: device, model: configuration, precision: precision, workspace: workspace, cosine: fixed.cosine,
      sine: fixed.sine)
    fixed.fillTables(extent, device)

    let weights = WeightFinder(layout: layout, fixed: fixed)
    layers = extent.layers.map { weights.layer($0) }
    input = extent.isFirst ? weights.input(sinusoidTable: fixed.sinusoids) : nil
    output = extent.isLast ? weights.output() : nil
  }

  /// Whether this stage embeds tokens and patches.
  public var isFirst: Bool { extent.isFirst }
  /// Whether this stage computes the losses.
  public var isLast: Bool { extent.isLast }
  public var slotCount: Int { slots.count }

  // MARK: Passes

  /// Takes the microbatch's inputs into a slot; the host arrays may be changed afterwards.
  ///
  /// Only what the stage reads must be there: patches' latents matter to the first stage, noise to the first
  /// and last. `Microbatch.validate` says beforehand whether it fits; one that does not traps.
  public func load(_ microbatch: Microbatch, slot index: Int) {
    let slot = slots[index]
    let patches = microbatch.patchPositions.count
    slot.positions = microbatch.rows * microbatch.length
    slot.targets = microbatch.targetPositions.count
    slot.images = patches / configuration.patchesPerImage
    precondition(microbatch.rows <= limits.rows && microbatch.length == limits.length, "microbatch beyond its limits")
    precondition(slot.images <= limits.images, "more images than the buffers were sized for")
    precondition(slot.images * configuration.patchesPerImage == patches, "an image is cut")

    if !layers.isEmpty {
      upload(microbatch.keyStart, to: slot.keyStart)
      upload(microbatch.keyEnd, to: slot.keyEnd)
    }
    if isFirst {
      upload(microbatch.tokens, to: slot.tokens)
      upload(microbatch.patchPositions, to: slot.patchPositions)
      upload(microbatch.timesteps, to: slot.timesteps)
      upload(microbatch.timesteps.map { schedule.signal[Int($0)] }, to: slot.signal)
      upload(microbatch.timesteps.map { schedule.sigma[Int($0)] }, to: slot.sigma)
      upload(microbatch.clean, to: slot.clean)
    }
    if isLast {
      upload(microbatch.targetTokens, to: slot.targetTokens)
      upload(microbatch.targetPositions + microbatch.patchPositions, to: slot.lossPositions)
    }
    if isFirst || isLast { upload(microbatch.noise, to: slot.noise) }
  }

  /// Fills the first elements of `tensor`.
  private func upload<Element: BitwiseCopyable>(_ values: [Element], to tensor: Tensor) {
    if values.isEmpty { return }
    device.upload(values, to: tensor.slice(at: 0, shape: [values.count]))
  }

  /// From the loaded microbatch (first stage) or `input` (others) to `output`. On the last stage the heads wait
  /// for `backward` or `evaluate`.
  public func forward(slot index: Int) {
    let slot = slots[index]
    input?.forward(slot, into: hidden(slot, 0), context)
    for (i, layer) in layers.enumerated() {
      layer.forward(
        hidden(slot, i), into: hidden(slot, i + 1), keep: activations(slot, i), keys: keys(slot), context)
    }
  }

  /// As the call below, for those who wait for the whole gradient.
  public func backward(slot: Int, gradient: Tensor, denominators: Denominators, accumulate: Bool = true) {
    backward(slot: slot, gradient: gradient, denominators: denominators, accumulate: accumulate) { _ in }
  }

  /// After `forward`, once: adds the microbatch's gradients to `gradient` (laid out as `values`), and leaves
  /// that of the stage's input in `inputGradient`. The last stage starts from the losses, which it computes;
  /// others from `outputGradient`.
  /// - Parameters:
  ///   - accumulate: false puts the gradients in the place of whatever `gradient` holds.
  ///   - finished: called with ranges of indices in `parameters` whose gradients this pass will not touch again:
  ///     all of them, the last units' first.
  public func backward(
    slot index: Int, gradient flat: Tensor, denominators: Denominators, accumulate: Bool,
    finished: (Range<Int>) throws -> Void
  ) rethrows {
    let gradient = StageGradient(flat: flat, adds: accumulate)
    precondition(
      flat.storage !== passingGradient?.storage || index == 0 && !accumulate,
      "a gradient in the place of activations holds that of one microbatch")
    let slot = slots[index]
    let d = slot.gradient.prefix(slot.positions)
    if let output {
      output.forward(hidden(slot, layers.count), slot, context)
      output.backward(slot, into: d, gradient: gradient, denominators: denominators, context)
      try finished(layout.parameters(ofUnit: units.upperBound - 1))
    }
    for (i, layer) in layers.enumerated().reversed() {
      let (x, kept) = (hidden(slot, i), activations(slot, i))
      switch extent.recompute {
      case .nothing: break
      case .selective: layer.fillActivations(kept, from: x, keys: nil, context)
      case .full: layer.fillActivations(kept, from: x, keys: keys(slot), context)
      }
      layer.backward(d, x: x, kept: kept, keys: keys(slot), gradient: gradient, context)
      try finished(layout.parameters(ofUnit: extent.layers.lowerBound + i + 1))
    }
    if let input {
      input.backward(d, slot, gradient: gradient, context)
      try finished(layout.parameters(ofUnit: 0))
    }
  }

  /// `forward`, then on the last stage the losses, without any gradient.
  public func evaluate(slot index: Int) {
    forward(slot: index)
    let slot = slots[index]
    output?.forward(hidden(slot, layers.count), slot, context)
    output?.losses(slot, context)
  }

  /// Waits for the sums of the slot's token losses and image losses, in order of position; zeros on all stages
  /// but the last. Call after `backward` or `evaluate`.
  public func losses(slot index: Int) throws(DeviceError) -> (languageModelSum: Double, diffusionSum: Double) {
    guard isLast else { return (0, 0) }
    let slot = slots[index]
    var sums = (languageModelSum: 0.0, diffusionSum: 0.0)
    if slot.targets > 0 {
      for loss in try device.floats(slot.tokenLosses.prefix(slot.targets)) { sums.languageModelSum += Double(loss) }
    }
    if slot.images > 0 {
      for loss in try device.floats(slot.imageLosses.prefix(slot.images)) { sums.diffusionSum += Double(loss) }
    }
    return sums
  }

  // MARK: Boundaries, all [T, D] float32 with T the loaded microbatch's positions

  /// Where the previous stage's output goes before `forward` (not on the first stage).
  public func input(slot: Int) -> Tensor { hidden(slots[slot], 0) }
  /// What the next stage takes, after `forward`; gone once a backward pass has put gradients into ``passingGradient``.
  public func output(slot: Int) -> Tensor { hidden(slots[slot], layers.count) }
  /// Where the next stage's `inputGradient` goes before `backward` (not on the last stage). The backward pass
  /// turns it into `inputGradient` in place.
  public func outputGradient(slot: Int) -> Tensor { slots[slot].gradient.prefix(slots[slot].positions) }
  /// What the previous stage takes, after `backward`: the same memory as `outputGradient`.
  public func inputGradient(slot: Int) -> Tensor { outputGradient(slot: slot) }

  // MARK: A slot's tensors cut to its microbatch

  func hidden(_ slot: Slot, _ layer: Int) -> Tensor { slot.hidden[layer].prefix(slot.positions) }
  private func keys(_ slot: Slot) -> KeyIntervals {
    KeyIntervals(start: slot.keyStart.prefix(slot.positions), end: slot.keyEnd.prefix(slot.positions))
  }
  private func activations(_ slot: Slot, _ layer: Int) -> LayerActivations {
    let kept = slot.layers.isEmpty ? context.workspace.remade : slot.layers[layer]
    guard let kept else { preconditionFailure("no activations of layer \(layer)") }
    return kept.prefix(slot.positions)
  }
}
