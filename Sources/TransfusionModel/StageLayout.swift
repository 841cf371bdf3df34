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
  public func view(of flat: Tensor) -> Tensor { flat.slice(at: offset, shape: Extents(specification.shape)) }
}

/// Where the parameters of a range of units lie in one flat buffer.
///
/// Canonical order, each tensor on a 64-byte boundary (16 float32 elements), except that a matrix which
/// continues the one before it follows without a gap. Nobody reads the elements between tensors.
struct StageLayout {
  let parameters: [StageParameter]
  /// The stage's units, and of each the index after its last parameter.
  private let units: Range<Int>
  private var unitEnds: [Int] = []
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
      unitEnds.append(parameters.count)
    }
    self.units = units
    self.parameters = parameters
    count = end
    copyCount = copyEnd
  }

  /// Indices in `parameters` of one of the stage's units.
  func parameters(ofUnit unit: Int) -> Range<Int> {
    let position = unit - units.lowerBound
    return (position == 0 ? 0 : unitEnds[position - 1])..<unitEnds[position]
  }
}

/// A parameter, or several that lie back to back, as the layers see it.
struct Weight {
  let offset: Int
  let shape: Extents
  /// The float32 master.
  let value: Tensor
  /// What GEMMs read: the compute-type copy, or the master itself in float32.
  let operand: Tensor

  /// This weight's part of a flat gradient.
  func gradient(in gradient: StageGradient) -> Tensor { gradient.flat.slice(at: offset, shape: shape) }
}

/// Where a backward pass puts the weights' gradients: added to what is there, or in its place.
///
/// Matrices' gradients come as one product and can overwrite; everything that is gathered row by row (`clear`) is
/// zeroed first.
struct StageGradient {
  /// Laid out as the stage's values.
  let flat: Tensor
  let adds: Bool

  /// Makes the gradients of weights zero before something is added to them, unless older ones count.
  func clear(_ weights: Weight..., in c: StageContext) {
    if adds { return }
    for weight in weights { c.device.fill(weight.gradient(in: self), with: 0) }
  }
}
