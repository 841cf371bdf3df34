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
  public func step(_ step: UInt64, learningRate: Double, gradientScale: Float, decays: Bool) -> AdamWStep {
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

/// Clipping of the gradients by their global norm (torch.nn.utils.clip_grad_norm_).
public enum ClipScale {
  /// What every gradient is multiplied by: min(1, limit / (norm + 1e-6)).
  /// - Parameters:
  ///   - sumOfSquares: over all tensors of the model, added in tensor order.
  ///   - limit: largest norm that is left alone.
  public static func scale(sumOfSquares: Double, limit: Double) -> Float {
    Float(min(1, limit / (sumOfSquares.squareRoot() + 1e-6)))
  }
}
