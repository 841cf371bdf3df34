import Compute

/// AdamW with decoupled weight decay (Loshchilov and Hutter 2019) and clipping by the global norm; the
/// paper's values.
public struct AdamWConfiguration: Hashable, Sendable, Codable {
  public var beta1: Double
  public var beta2: Double
  public var epsilon: Double
  public var weightDecay: Double
  /// Largest global norm of the gradients; larger ones are scaled down to it.
  public var clipNorm: Double
  /// Whether norms and biases decay as well: false [ours], true in the reference.
  public var decayNormsAndBiases: Bool

  public init(
    beta1: Double = 0.9, beta2: Double = 0.95, epsilon: Double = 1e-8, weightDecay: Double = 0.1,
    clipNorm: Double = 1, decayNormsAndBiases: Bool = false
  ) {
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.weightDecay = weightDecay
    self.clipNorm = clipNorm
    self.decayNormsAndBiases = decayNormsAndBiases
  }

  /// The numbers of one tensor's update.
  /// - Parameters:
  ///   - step: counted from 0; the moments are corrected for step + 1 updates.
  ///   - decays: whether the tensor is one that decays (`ParameterSpecification.decays`).
  public func update(step: UInt64, learningRate: Double, gradientScale: Float, decays: Bool) -> AdamWStep {
    AdamWStep(
      learningRate: Float(learningRate), beta1: Float(beta1), beta2: Float(beta2), epsilon: Float(epsilon),
      weightDecay: decays || decayNormsAndBiases ? Float(weightDecay) : 0, gradientScale: gradientScale,
      correction1: Float(1 - power(beta1, step + 1)), correction2: Float(1 - power(beta2, step + 1)))
  }

  /// base^exponent by squaring: the same bits with any mathematics library.
  private func power(_ base: Double, _ exponent: UInt64) -> Double {
    var (result, square, rest) = (1.0, base, exponent)
    while rest > 0 {
      if rest & 1 == 1 { result *= square }
      square *= square
      rest >>= 1
    }
    return result
  }
}

/// The factor that brings the global gradient norm down to its bound (torch.nn.utils.clip_grad_norm_).
public struct ClipScale: Hashable, Sendable {
  /// What every gradient is multiplied by: min(1, clip / (norm + 1e-6)).
  public let factor: Float
  /// The norm before clipping.
  public let norm: Double

  /// - Parameter gradientSumOfSquares: over all tensors of the model, added in tensor order.
  public init(gradientSumOfSquares: Double, clipNorm: Double) {
    norm = gradientSumOfSquares.squareRoot()
    factor = Float(min(1, clipNorm / (norm + 1e-6)))
  }
}
