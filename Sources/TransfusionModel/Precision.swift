import Compute

/// The compute type of a run: what GEMM and attention operands are held in.
///
/// Master weights, moments, gradients, the residual stream, what crosses a stage boundary and every sum are
/// float32 in both.
public enum Precision: String, Hashable, Sendable, Codable, CaseIterable {
  case float32
  case bfloat16

  public var computeType: ElementType {
    switch self {
    case .float32: .float32
    case .bfloat16: .bfloat16
    }
  }
}
