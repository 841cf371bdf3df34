import Compute
import Randomness

extension Stage {
  /// Sets every parameter from the run's seed: matrices normal with `initialDeviation`, norms one, biases zero.
  /// An element depends on seed, tensor name and index alone, so any cut into stages gives the same model.
  /// Refreshes the compute copies.
  public func initialise(seed: UInt64) {
    for parameter in parameters {
      let (specification, view) = (parameter.specification, parameter.view(of: values))
      switch specification.role {
      case .norm: device.fill(view, with: 1)
      case .bias: device.fill(view, with: 0)
      case .weight, .embedding: fillNormal(view, name: specification.name, seed: seed)
      }
    }
    refreshComputeCopies()
  }

  private func fillNormal(_ tensor: Tensor, name: String, seed: UInt64) {
    let stream = CounterStream(seed: seed, purpose: .parameters, stream: Stage.stream(ofTensor: name))
    let chunk = 1 << 20
    for start in stride(from: 0, to: tensor.count, by: chunk) {
      var numbers = [Float](repeating: 0, count: min(chunk, tensor.count - start))
      stream.fillGaussian(&numbers, from: UInt64(start))
      for i in numbers.indices { numbers[i] *= configuration.initialDeviation }
      device.upload(numbers, to: tensor.slice(at: start, shape: [numbers.count]))
    }
  }

  /// The random stream of a tensor: FNV-1a of its name, cut to the 62 bits that streams may have.
  static func stream(ofTensor name: String) -> UInt64 {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01B3 }
    return hash & (1 << 62 - 1)
  }

  /// A zeroed flat float32 buffer laid out as `values`.
  public func makeGradient() throws -> Tensor {
    isShared ? try device.allocateShared(.float32, [layout.count]) : try device.allocate(.float32, [layout.count])
  }

  /// Brings the compute-type copies up to date with `values`; nothing to do in float32. Call it after
  /// `values` was changed by anything but an optimizer that was given the copies.
  public func refreshComputeCopies() {
    for parameter in parameters {
      if let copy = computeCopy(of: parameter) { device.copy(parameter.view(of: values), to: copy) }
    }
  }

  /// The bfloat16 copy of a parameter that GEMMs read, for `Device.adamW` to write; nil where there is none.
  public func computeCopy(of parameter: StageParameter) -> Tensor? {
    guard let copies, let offset = parameter.copyOffset else { return nil }
    return copies.slice(at: offset, shape: Extents(parameter.specification.shape))
  }
}

/// A stage's tensors besides slots and workspace.
struct FixedTensors {
  let values: Tensor
  let copies: Tensor?
  let cosine, sine: Tensor  // [T, E/2]
  let sinusoids: Tensor  // [noise levels, C]

  init(_ extent: StageExtent, _ layout: StageLayout, _ allocate: TensorAllocator, isShared: Bool = false)
    throws(DeviceError)
  {
    values = try allocate(.float32, layout.count, isShared: isShared)
    copies = extent.precision == .float32 ? nil : try allocate(extent.precision.computeType, layout.copyCount)
    let rotaryRows = extent.layers.isEmpty ? 0 : extent.positions
    cosine = try allocate(.float32, rotaryRows, extent.model.headSize / 2)
    sine = try allocate(.float32, rotaryRows, extent.model.headSize / 2)
    sinusoids = try allocate(.float32, extent.isFirst ? Stage.noiseLevels : 0, extent.model.timeChannels)
  }

  func fillTables(_ extent: StageExtent, _ device: any Device) {
    if !extent.layers.isEmpty {
      let tables = PositionTables.rotary(
        rows: extent.limits.rows, length: extent.limits.length, headSize: extent.model.headSize,
        theta: extent.model.ropeTheta)
      device.upload(tables.cosine, to: cosine)
      device.upload(tables.sine, to: sine)
    }
    if extent.isFirst {
      device.upload(
        PositionTables.timesteps(Stage.noiseLevels, channels: extent.model.timeChannels), to: sinusoids)
    }
  }
}

/// Finds the layers' weights by name.
struct WeightFinder {
  private let byName: [String: StageParameter]
  private let fixed: FixedTensors

  init(layout: StageLayout, fixed: FixedTensors) {
    byName = Dictionary(uniqueKeysWithValues: layout.parameters.map { ($0.specification.name, $0) })
    self.fixed = fixed
  }

  /// The tensors of these names, which lie back to back, as one.
  private func find(_ names: String...) -> Weight {
    let found = names.map { name in
      guard let parameter = byName[name] else { preconditionFailure("\(name) is not a parameter of this stage") }
      return parameter
    }
    let first = found[0]
    var extents = first.specification.shape
    extents[0] = found.reduce(0) { $0 + $1.specification.shape[0] }
    let shape = Extents(extents)
    let value = fixed.values.slice(at: first.offset, shape: shape)
    var operand = value
    if let copies = fixed.copies, let offset = first.copyOffset { operand = copies.slice(at: offset, shape: shape) }
    return Weight(offset: first.offset, shape: shape, value: value, operand: operand)
  }

  func input(sinusoidTable: Tensor) -> InputUnit {
    InputUnit(
      embedding: find("model.embed_tokens.weight"), patchIn: find("patch_in.weight"),
      patchInBias: find("patch_in.bias"), timeIn: find("time_embedding.linear_1.weight"),
      timeInBias: find("time_embedding.linear_1.bias"), timeOut: find("time_embedding.linear_2.weight"),
      timeOutBias: find("time_embedding.linear_2.bias"), sinusoidTable: sinusoidTable)
  }

  func layer(_ index: Int) -> TransformerLayer {
    let name = "model.layers.\(index)"
    return TransformerLayer(
      inputNorm: find("\(name).input_layernorm.weight"),
      queryKeyValue: find(
        "\(name).self_attn.q_proj.weight", "\(name).self_attn.k_proj.weight", "\(name).self_attn.v_proj.weight"),
      attentionOut: find("\(name).self_attn.o_proj.weight"),
      feedForwardNorm: find("\(name).post_attention_layernorm.weight"),
      gateUp: find("\(name).mlp.gate_proj.weight", "\(name).mlp.up_proj.weight"),
      down: find("\(name).mlp.down_proj.weight"))
  }

  func output() -> OutputUnit {
    OutputUnit(
      norm: find("model.norm.weight"), head: find("lm_head.weight"), patchOut: find("patch_out.weight"),
      patchOutBias: find("patch_out.bias"))
  }
}
