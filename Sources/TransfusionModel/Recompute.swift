/// What a backward pass makes again of its forward pass instead of keeping it. The bits are the same.
public enum Recompute: RawRepresentable, Hashable, Sendable, CaseIterable {
  /// All that the backward pass needs is kept.
  case nothing
  /// Kept are a layer's input and attention's output; queries, keys and values, the stream after attention and the
  /// feed-forward network's gate are made again: products, which are fast, and not attention, which is not. ("Selective"
  /// as in Korthikanti et al., 2022, of what costs much memory and little time; here that is the products' results.)
  case selective
  /// Only a layer's input is kept.
  case full

  public var rawValue: String {
    switch self {
    case .nothing: "none"
    case .selective: "selective"
    case .full: "full"
    }
  }
  /// True and false were its values before there were three.
  public init?(rawValue: String) {
    switch rawValue {
    case "none", "false": self = .nothing
    case "selective": self = .selective
    case "full", "true": self = .full
    default: return nil
    }
  }

  /// A backward pass's time over the forward pass's, about.
  public var backwardOverForward: Double {
    switch self {
    case .nothing: 2
    case .selective: 2.6
    case .full: 3
    }
  }
}
