/// The shape of a Transfusion transformer with the linear patch codec (arXiv 2408.11039, section 3).
public struct ModelConfiguration: Hashable, Sendable, Codable {
  public var layers: Int
  /// D
  public var width: Int
  /// H
  public var heads: Int
  /// G: divides `heads`.
  public var keyValueHeads: Int
  /// F
  public var feedForwardWidth: Int
  /// V
  public var vocabulary: Int
  /// Channels of the latent (8 for the paper's VAE, 3 for pixels).
  public var channels: Int
  /// Height and width of the latent.
  public var latentSize: Int
  /// Height and width of a patch; divides `latentSize`.
  public var patch: Int
  public var timeChannels: Int = 256
  public var ropeTheta: Double = 10_000
  public var normEpsilon: Float = 1e-5
  /// Standard deviation of the initial weights [ours].
  public var initialDeviation: Float = 0.02
  /// Lambda in `loss = L_LM + lambda L_DDPM`.
  public var diffusionWeight: Double = 5

  public init(
    layers: Int, width: Int, heads: Int, keyValueHeads: Int, feedForwardWidth: Int, vocabulary: Int, channels: Int,
    latentSize: Int, patch: Int
  ) {
    self.layers = layers
    self.width = width
    self.heads = heads
    self.keyValueHeads = keyValueHeads
    self.feedForwardWidth = feedForwardWidth
    self.vocabulary = vocabulary
    self.channels = channels
    self.latentSize = latentSize
    self.patch = patch
  }

  /// E
  public var headSize: Int { width / heads }
  /// P
  public var patchesPerImage: Int { (latentSize / patch) * (latentSize / patch) }
  /// K
  public var patchElements: Int { channels * patch * patch }
  /// The model in pipeline order: unit 0 is the input side (token embedding, patch projection, timestep
  /// MLP), units 1...layers the transformer layers, unit layers + 1 the output side (final norm, token
  /// head, patch head). A stage is a range of units.
  public var unitCount: Int { layers + 2 }
}
