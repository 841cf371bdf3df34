import Compute

// Shape letters as in Device.swift; T and I are the largest counts here, and every use takes a prefix of rows.

/// Makes a stage's tensors and counts their bytes; without a device it only counts.
final class TensorAllocator {
  private let device: (any Device)?
  private(set) var bytes = 0

  init(_ device: (any Device)?) { self.device = device }

  func callAsFunction(_ type: ElementType, _ shape: Int..., isShared: Bool = false) throws(DeviceError) -> Tensor {
    bytes += shape.reduce(1, *) * type.sizeBytes
    guard let device else {
      return Tensor(storage: Storage(type: type, count: shape.reduce(1, *)), offset: 0, shape: Extents(shape))
    }
    return isShared ? try device.allocateShared(type, Extents(shape)) : try device.allocate(type, Extents(shape))
  }
}

/// Which sides of the model a stage holds, and the sizes of its buffers.
struct StageExtent {
  let model: ModelConfiguration
  let units: Range<Int>
  let limits: MicrobatchLimits
  let precision: Precision
  let recompute: Bool

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

  init(_ extent: StageExtent, _ allocate: TensorAllocator) throws(DeviceError) {
    let (t, type, model) = (extent.positions, extent.precision.computeType, extent.model)
    inverse = try allocate(.float32, t)
    middleInverse = try allocate(.float32, t)
    queryKeyValue = try allocate(type, t, extent.packedWidth)
    attention = try allocate(type, t, model.width)
    logSumExp = try allocate(.float32, model.heads, t)
    middle = try allocate(.float32, t, model.width)
    gateUp = try allocate(type, t, 2 * model.feedForwardWidth)
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

/// A microbatch in flight: its inputs and what its backward pass needs.
final class Slot {
  // Inputs, as in Microbatch. `lossPositions` are the target positions, then the patch positions.
  let tokens, keyStart, keyEnd, targetTokens, lossPositions, patchPositions: Tensor
  let timesteps, signal, sigma, clean, noise: Tensor
  /// [T, D] float32: entering each layer of the stage, and leaving the last one.
  let hidden: [Tensor]
  /// One per layer; none when they are recomputed.
  let layers: [LayerActivations]
  /// [T, D] float32: of the loss by the stage's output, turned into that by its input.
  let gradient: Tensor
  /// [T] and [I] float32.
  let tokenLosses, imageLosses: Tensor

  /// What the loaded microbatch has of each.
  var positions = 0
  var targets = 0
  var images = 0

  init(_ extent: StageExtent, _ allocate: TensorAllocator) throws(DeviceError) {
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

    var hidden: [Tensor] = []
    var layers: [LayerActivations] = []
    for _ in 0...extent.layers.count { hidden.append(try allocate(.float32, t, d)) }
    if !extent.recompute {
      for _ in extent.layers { layers.append(try LayerActivations(extent, allocate)) }
    }
    self.hidden = hidden
    self.layers = layers
    gradient = try allocate(.float32, t, d)
  }
}

/// Memory that every microbatch and layer uses in turn.
struct Workspace {
  // Layers; compute type. `narrow` is only needed where float32 must be converted for a GEMM.
  let normed, narrow, dNarrow: Tensor  // [T, D]
  let swiGLU: Tensor  // [T, F]; in the backward pass first its gradient
  let dQueryKeyValue: Tensor  // [T, (H+2G)E]
  /// One layer's activations, made again by the backward pass.
  let recomputed: LayerActivations?

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
    let selected, dSelected: Tensor  // [T, D] float32
    let inverse: Tensor  // [T]
    let normed, dNormed: Tensor  // [T, D]; compute type
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
    swiGLU = try allocate(type, layerRows, model.feedForwardWidth)
    dQueryKeyValue = try allocate(type, layerRows, extent.packedWidth)
    recomputed = extent.recompute && !extent.layers.isEmpty ? try LayerActivations(extent, allocate) : nil

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
        selected: try allocate(.float32, t, d), dSelected: try allocate(.float32, t, d),
        inverse: try allocate(.float32, t), normed: try allocate(type, t, d), dNormed: try allocate(type, t, d),
        prediction: try allocate(.float32, extent.patches, model.patchElements), dPrediction: dPrediction,
        dPredictionOperand: try operand(dPrediction))
    } else {
      output = nil
    }
  }
}
