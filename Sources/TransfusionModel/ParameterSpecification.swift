/// One trainable tensor of the model: its name, its shape and where in the pipeline it lives.
public struct ParameterSpecification: Hashable, Sendable, Codable {
  /// As Hugging Face spells it (`model.layers.0.self_attn.q_proj.weight`).
  public var name: String
  public var shape: [Int]
  /// The unit of `ModelConfiguration` that owns it.
  public var unit: Int
  public var role: Role
  /// True where the matrix continues the one before it (k and v after q, up after gate): the two lie back to
  /// back in memory and one GEMM serves both.
  public var continuesPrevious: Bool

  /// What the tensor is to its layer.
  public enum Role: String, Hashable, Sendable, Codable {
    /// A table that is looked up, never multiplied with.
    case embedding
    /// The matrix of a linear map.
    case weight
    /// The scale of an RMSNorm.
    case norm
    case bias
  }

  public init(name: String, shape: [Int], unit: Int, role: Role, continuesPrevious: Bool = false) {
    self.name = name
    self.shape = shape
    self.unit = unit
    self.role = role
    self.continuesPrevious = continuesPrevious
  }

  public var count: Int { shape.reduce(1, *) }
  /// True for matrices: weight decay leaves norms and biases alone unless the run decays everything [ours].
  public var decays: Bool { role == .weight || role == .embedding }
}

extension ModelConfiguration {
  /// Every parameter in canonical order: unit 0, the layers in order, the output unit. A tensor's index in
  /// this list is its number everywhere in a run.
  ///
  /// Within a layer q, k, v follow each other, and so do gate and up: each group is one matrix to a GEMM.
  public var parameters: [ParameterSpecification] {
    (0..<unitCount).flatMap { parameters(ofUnit: $0) }
  }

  /// The parameters of one unit in canonical order.
  public func parameters(ofUnit unit: Int) -> [ParameterSpecification] {
    func make(
      _ name: String, _ role: ParameterSpecification.Role, _ shape: Int..., continuing: Bool = false
    ) -> ParameterSpecification {
      ParameterSpecification(name: name, shape: shape, unit: unit, role: role, continuesPrevious: continuing)
    }
    let (d, e, k) = (width, headSize, patchElements)
    if unit == 0 {
      return [
        make("model.embed_tokens.weight", .embedding, vocabulary, d),
        make("patch_in.weight", .weight, d, k),
        make("patch_in.bias", .bias, d),
        make("time_embedding.linear_1.weight", .weight, d, timeChannels),
        make("time_embedding.linear_1.bias", .bias, d),
        make("time_embedding.linear_2.weight", .weight, d, d),
        make("time_embedding.linear_2.bias", .bias, d),
      ]
    }
    if unit == layers + 1 {
      return [
        make("model.norm.weight", .norm, d),
        make("lm_head.weight", .weight, vocabulary, d),
        make("patch_out.weight", .weight, k, d),
        make("patch_out.bias", .bias, k),
      ]
    }
    precondition((1...layers).contains(unit), "unit \(unit) outside the model")
    let layer = "model.layers.\(unit - 1)"
    return [
      make("\(layer).input_layernorm.weight", .norm, d),
      make("\(layer).self_attn.q_proj.weight", .weight, heads * e, d),
      make("\(layer).self_attn.k_proj.weight", .weight, keyValueHeads * e, d, continuing: true),
      make("\(layer).self_attn.v_proj.weight", .weight, keyValueHeads * e, d, continuing: true),
      make("\(layer).self_attn.o_proj.weight", .weight, d, heads * e),
      make("\(layer).post_attention_layernorm.weight", .norm, d),
      make("\(layer).mlp.gate_proj.weight", .weight, feedForwardWidth, d),
      make("\(layer).mlp.up_proj.weight", .weight, feedForwardWidth, d, continuing: true),
      make("\(layer).mlp.down_proj.weight", .weight, d, feedForwardWidth),
    ]
  }

  /// Trainable numbers of the whole model.
  public var parameterCount: Int { parameters.reduce(0) { $0 + $1.count } }
}
