import Compute

/// One tensor of a stage and where it lies in the stage's flat buffers.
public struct StageParameter: Hashable, Sendable {
  public let specification: ParameterSpecification
  /// Position in `ModelConfiguration.parameters`.
  public let tensorIndex: Int
  /// First element in the flat buffers of values, gradients and (whole) moments.
  public let offset: Int
  /// First element in the flat buffer of compute-type copies; nil for what no GEMM reads.
  public let copyOffset: Int?

  /// This tensor's part of a flat buffer laid out as the stage's values.
  public func view(of flat: Tensor) -> Tensor { flat.slice(at: offset, shape: specification.shape) }
}

/// Where the parameters of a range of units lie in one flat buffer.
///
/// Canonical order, each tensor on a 64-byte boundary (16 float32 elements), except that a matrix which
/// continues the one before it follows without a gap. The elements between tensors are zero and stay so.
struct StageLayout {
  let parameters: [StageParameter]
  let count: Int
  /// Elements of the buffer of compute-type copies: the GEMM operands in the same order.
  let copyCount: Int

  static let alignment = 16

  init(_ model: ModelConfiguration, units: Range<Int>) {
    func aligned(_ offset: Int) -> Int { (offset + Self.alignment - 1) / Self.alignment * Self.alignment }
    var parameters: [StageParameter] = []
    var (end, copyEnd) = (0, 0)
    var index = (0..<units.lowerBound).reduce(0) { $0 + model.parameters(ofUnit: $1).count }
    for unit in units {
      for specification in model.parameters(ofUnit: unit) {
        let offset = specification.continuesPrevious ? end : aligned(end)
        end = offset + specification.count
        var copyOffset: Int?
        if specification.role == .weight {
          let start = specification.continuesPrevious ? copyEnd : aligned(copyEnd)
          copyEnd = start + specification.count
          copyOffset = start
        }
        parameters.append(
          StageParameter(specification: specification, tensorIndex: index, offset: offset, copyOffset: copyOffset))
        index += 1
      }
    }
    self.parameters = parameters
    count = end
    copyCount = copyEnd
  }
}

/// A parameter, or several that lie back to back, as the layers see it.
struct Weight {
  let offset: Int
  let shape: [Int]
  /// The float32 master.
  let value: Tensor
  /// What GEMMs read: the compute-type copy, or the master itself in float32.
  let operand: Tensor

  /// This weight's part of a flat gradient.
  func gradient(in flat: Tensor) -> Tensor { flat.slice(at: offset, shape: shape) }
}
