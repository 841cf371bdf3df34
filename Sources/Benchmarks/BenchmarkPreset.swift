import TransfusionModel

/// Model sizes of the Transfusion paper (arXiv 2408.11039, table of model sizes) and two smaller ones.
public enum BenchmarkPreset: String, CaseIterable, Sendable {
  case tiny
  case small
  case b016 = "0.16B"
  case b037 = "0.37B"
  case b076 = "0.76B"

  /// With multi-head attention, SwiGLU's width as in Llama, patches of 2 x 2 x 8 latent elements and a
  /// vocabulary of 32,768: what the PyTorch peer is built with.
  /// - Parameter patches: of an image; a square number.
  public func model(patches: Int) -> ModelConfiguration {
    let (layers, width, heads) =
      switch self {
      case .tiny: (4, 256, 4)
      case .small: (8, 512, 8)
      case .b016: (16, 768, 12)
      case .b037: (24, 1024, 16)
      case .b076: (24, 1536, 24)
      }
    let feedForward = (8 * width / 3 + 255) / 256 * 256
    let side = Int(Double(patches).squareRoot().rounded())
    return ModelConfiguration(
      layers: layers, width: width, heads: heads, keyValueHeads: heads, feedForwardWidth: feedForward,
      vocabulary: 32_768, channels: 8, latentSize: 2 * side, patch: 2)
  }
}
