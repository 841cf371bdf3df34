import Compute

// Shape letters as in Device.swift; T and I are the largest counts here, and every use takes a prefix of rows.

/// Makes a stage's tensors and counts their bytes; without a device it only counts.
final class TensorAllocator {
  private let device: (any Device)?
  /// Where the tensors go one after the other, each at a multiple of `alignment`; memory of their own where nil.
  private let memory: Tensor?
  private let alignment: Int
  private(set) var bytes = 0

  init(_ device: (any Device)?, in memory: Tensor? = nil, alignment: Int = 1) {
    self.device = device
    self.memory = memory
    self.alignment = alignment
  }

  func callAsFunction(_ type: ElementType, _ shape: Int..., isShared: Bool = false) throws(DeviceError) -> Tensor {
    let (start, count) = (bytes, shape.reduce(1, *))
    bytes += (count * type.sizeBytes + alignment - 1) / alignment * alignment
    guard let device else {
      return Tensor(storage: Storage(type: type, count: count), offset: 0, shape: Extents(shape))
    }
    if let memory { return device.overlay(type, Extents(shape), on: memory, at: start) }
    return isShared ? try device.allocateShared(type, Extents(shape)) : try device.allocate(type, Extents(shape))
  }
}

/// Which sides of the model a stage holds, and the sizes of its buffers.
struct StageExtent {
  let model: ModelConfiguration
  let units: Range<Int>
  let limits: MicrobatchLimits
  let precision: Precision
  let recompute: Recompute

  var isFirst: Bool { units.lowerBound == 0 }
  var isLast: Bool { units.upperBound == model.unitCount }
  /// Layers of this stage, numbered from 0 in the model.
  var layers: Range<Int> {
    let lower = max(units.lowerBound, 1) - 1
    return lower..<max(lower, min(units.upperBound, model.layers + 1) - 1)
  }
  /// T
  var positions: Int { limits.rows * limits.length }
  /// I*P
  var patches: Int { limits.images * model.patchesPerImage }
  /// (H + 2G) E
  var packedWidth: Int { (model.heads + 2 * model.keyValueHeads) * model.headSize }
}

extension Tensor {
  /// The first `count` rows.
  func prefix(_ count: Int) -> Tensor { rows(0..<count) }
}

/// What the backward pass of one layer needs of its forward pass, besides the layer's input.
struct LayerActivations {
  /// [T] 1/rms of the input, and of `middle`.
  let inverse, middleInverse: Tensor
  /// [T, (H+2G)E] rotated queries and keys, and values; compute type.
  let queryKeyValue: Tensor
  /// [T, D] attention's output before its projection; compute type.
  let attention: Tensor
  /// [H, T]
  let logSumExp: Tensor
  /// [T, D] the residual stream after attention; float32.
  let middle: Tensor
  /// [T, 2F] gate and up; compute type. The backward pass turns it into its own gradient.
  let gateUp: Tensor

  /// - Parameter isShared: these are only what all layers use in turn with ``Recompute/selective``.
  init(_ extent: StageExtent, _ allocate: TensorAllocator, isShared: Bool = false) throws(DeviceError) {
    let (t, type, model) = (extent.positions, extent.precision.computeType, extent.model)
    let kept = isShared ? 0 : t
    inverse = try allocate(.float32, kept)
    middleInverse = try allocate(.float32, kept)
    queryKeyValue = try allocate(type, t, extent.packedWidth)
    attention = try allocate(type, kept, model.width)
    logSumExp = try allocate(.float32, model.heads, kept)
    middle = try allocate(.float32, kept, model.width)
    gateUp = try allocate(type, t, 2 * model.feedForwardWidth)
  }

  /// What is kept with ``Recompute/selective``: the large tensors are those that all layers use in turn.
  /// - Parameter output: of the layer. Its backward pass has no use for it, so that what is in the middle can be there.
  init(_ extent: StageExtent, _ allocate: TensorAllocator, sharing shared: LayerActivations, output: Tensor)
    throws(DeviceError)
  {
    let t = extent.positions
    inverse = try allocate(.float32, t)
    middleInverse = try allocate(.float32, t)
    attention = try allocate(extent.precision.computeType, t, extent.model.width)
    logSumExp = try allocate(.float32, extent.model.heads, t)
    (queryKeyValue, middle, gateUp) = (shared.queryKeyValue, output, shared.gateUp)
  }

  private init(prefix count: Int, of whole: LayerActivations) {
    inverse = whole.inverse.prefix(count)
    middleInverse = whole.middleInverse.prefix(count)
    queryKeyValue = whole.queryKeyValue.prefix(count)
    attention = whole.attention.prefix(count)
    logSumExp = whole.logSumExp.slice(at: 0, shape: [whole.logSumExp.shape[0], count])
    middle = whole.middle.prefix(count)
    gateUp = whole.gateUp.prefix(count)
  }
  /// The same memory for fewer positions.
  func prefix(_ count: Int) -> LayerActivations { LayerActivations(prefix: count, of: self) }
}

/// What a microbatch's forward pass leaves for its backward pass.
struct Activations {
  /// [T, D] float32: entering each layer of the stage, and leaving the last one.
  private(set) var hidden: [Tensor] = []
  /// One per layer; none where all of it is made again.
  private(set) var layers: [LayerActivations] = []
  /// Of each of the stage's units, the allocator's bytes up to the last tensor that its backward pass reads.
  private(set) var ends: [Int] = []

  /// In the order in which the forward pass writes them.
  init(_ extent: StageExtent, _ allocate: TensorAllocator, remade: LayerActivations?) throws(DeviceError) {
    let (t, d) = (extent.positions, extent.model.width)
    // The input side's backward pass starts from a gradient alone.
    if extent.isFirst { ends.append(0) }
    hidden.append(try allocate(.float32, t, d))
    for layer in 0..<extent.layers.count {
      switch (extent.recompute, remade) {
      case (.nothing, _):
        layers.append(try LayerActivations(extent, allocate))
        ends.append(allocate.bytes)
        hidden.append(try allocate(.float32, t, d))
      case (.selective, let remade?):
        hidden.append(try allocate(.float32, t, d))
        layers.append(try LayerActivations(extent, allocate, sharing: remade, output: hidden[layer + 1]))
        ends.append(allocate.bytes)
      case (.selective, nil): preconditionFailure("a workspace without what its layers share")
      case (.full, _):
        ends.append(allocate.bytes)
        hidden.append(try allocate(.float32, t, d))
      }
    }
    if extent.isLast { ends.append(allocate.bytes) }
  }
}

/// A microbatch in flight: its inputs and what its backward pass needs.
final class Slot {
  // Inputs, as in Microbatch. `lossPositions` are the target positions, then the patch positions.
  let tokens, keyStart, keyEnd, targetTokens, lossPositions, patchPositions: Tensor
  let timesteps, signal, sigma, clean, noise: Tensor
  /// [T, D] float32: entering each layer of the stage, and leaving the last one.
  let hidden: [Tensor]
  /// One per layer; none where all of it is made again.
  let layers: [LayerActivations]
  /// [T, D] float32: of the loss by the stage's output, turned into that by its input.
  let gradient: Tensor
  /// [T] and [I] float32.
  let tokenLosses, imageLosses: Tensor

  /// What the loaded microbatch has of each.
  var positions = 0
  var targets = 0
  var images = 0

  /// - Parameters:
  ///   - remade: the workspace's, where activations are made again.
  ///   - arena: where the activations go; to memory of their own where nil.
  init(_ extent: StageExtent, _ allocate: TensorAllocator, remade: LayerActivations?, arena: ActivationArena? = nil)
    throws(DeviceError)
  {
    let (t, d, model) = (extent.positions, extent.model.width, extent.model)
    // Empty where the stage has no use for it.
    func first(_ count: Int) -> Int { extent.isFirst ? count : 0 }
    func last(_ count: Int) -> Int { extent.isLast ? count : 0 }
    tokens = try allocate(.int32, first(t))
    keyStart = try allocate(.int32, extent.layers.isEmpty ? 0 : t)
    keyEnd = try allocate(.int32, extent.layers.isEmpty ? 0 : t)
    targetTokens = try allocate(.int32, last(t))
    lossPositions = try allocate(.int32, last(t))
    patchPositions = try allocate(.int32, first(extent.patches))
    timesteps = try allocate(.int32, first(extent.limits.images))
    signal = try allocate(.float32, first(extent.limits.images))
    sigma = try allocate(.float32, first(extent.limits.images))
    clean = try allocate(.float32, first(extent.patches), model.patchElements)
    noise = try allocate(.float32, extent.isFirst || extent.isLast ? extent.patches : 0, model.patchElements)
    tokenLosses = try allocate(.float32, last(t))
    imageLosses = try allocate(.float32, last(extent.limits.images))

    let activations = try Activations(extent, arena?.allocator ?? allocate, remade: remade)
    (hidden, layers) = (activations.hidden, activations.layers)
    gradient = try allocate(.float32, t, d)
  }
}

/// Memory that every microbatch and layer uses in turn.
struct Workspace {
  // Layers; compute type. `narrow` is only needed where float32 must be converted for a GEMM.
  let normed, narrow, dNarrow: Tensor  // [T, D]
  let swiGLU: Tensor  // [T, F]; in the backward pass first its gradient
  let dQueryKeyValue: Tensor  // [T, (H+2G)E]; in swiGLU's memory, which is done with by then
  /// One layer's activations that the backward pass makes again.
  let remade: LayerActivations?

  let input: Input?
  let output: Output?

  /// Of the input side: patches and timesteps on their way into the residual stream.
  struct Input {
    let noisy, noisyOperand: Tensor  // [I*P, K]
    let patches, patchesOperand: Tensor  // [I*P, D]; the backward pass holds their gradient there
    let sinusoids: Tensor  // [I, C]; compute type
    let before, after, time: Tensor  // [I, D] float32: SiLU's input and output, and the timestep embedding
    let afterOperand, timeOperand: Tensor  // [I, D]
  }

  /// Of the output side: the rows that carry a loss.
  struct Output {
    let dSelected: Tensor  // [T, D] float32
    let inverse: Tensor  // [T]
    let normed, dNormed: Tensor  // [T, D]; compute type; those of the layers where there are any, which do nothing then
    let prediction, dPrediction: Tensor  // [I*P, K] float32
    let dPredictionOperand: Tensor  // [I*P, K]
  }

  init(_ extent: StageExtent, _ allocate: TensorAllocator) throws(DeviceError) {
    let (t, d, model) = (extent.positions, extent.model.width, extent.model)
    let type = extent.precision.computeType
    // In float32 a value is its own GEMM operand.
    func operand(_ value: Tensor) throws(DeviceError) -> Tensor {
      type == .float32 ? value : try allocate(type, value.shape[0], value.rowCount)
    }
    let layerRows = extent.layers.isEmpty ? 0 : t
    normed = try allocate(type, layerRows, d)
    narrow = try allocate(type, type == .float32 ? 0 : layerRows, d)
    dNarrow = try allocate(type, layerRows, d)
    let wide = try allocate(type, layerRows, max(model.feedForwardWidth, extent.packedWidth))
    swiGLU = wide.slice(at: 0, shape: [layerRows, model.feedForwardWidth])
    dQueryKeyValue = wide.slice(at: 0, shape: [layerRows, extent.packedWidth])
    remade =
      extent.recompute == .nothing || extent.layers.isEmpty
      ? nil : try LayerActivations(extent, allocate, isShared: extent.recompute == .selective)

    if extent.isFirst {
      let images = extent.limits.images
      let noisy = try allocate(.float32, extent.patches, model.patchElements)
      let patches = try allocate(.float32, extent.patches, d)
      let after = try allocate(.float32, images, d)
      let time = try allocate(.float32, images, d)
      input = Input(
        noisy: noisy, noisyOperand: try operand(noisy), patches: patches, patchesOperand: try operand(patches),
        sinusoids: try allocate(type, images, model.timeChannels), before: try allocate(.float32, images, d),
        after: after, time: time, afterOperand: try operand(after), timeOperand: try operand(time))
    } else {
      input = nil
    }
    if extent.isLast {
      let dPrediction = try allocate(.float32, extent.patches, model.patchElements)
      output = Output(
        dSelected: try allocate(.float32, t, d), inverse: try allocate(.float32, t),
        normed: layerRows > 0 ? normed : try allocate(type, t, d),
        dNormed: layerRows > 0 ? dNarrow : try allocate(type, t, d),
        prediction: try allocate(.float32, extent.patches, model.patchElements), dPrediction: dPrediction,
        dPredictionOperand: try operand(dPrediction))
    } else {
      output = nil
    }
  }
}
