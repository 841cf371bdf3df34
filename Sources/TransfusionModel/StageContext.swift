import Compute

/// What every layer of a stage computes with.
struct StageContext {
  let device: any Device
  let model: ModelConfiguration
  let precision: Precision
  let workspace: Workspace
  /// [T, E/2] of each position.
  let cosine, sine: Tensor

  /// `value` as a GEMM reads it: itself in float32, else its conversion, kept in `operand`.
  func operand(_ value: Tensor, in operand: Tensor) -> Tensor {
    if precision == .float32 { return value }
    device.copy(value, to: operand)
    return operand
  }

  /// y = x W^T, or base + x W^T: [N, in] by a weight of [out, in] to [N, out].
  func linear(_ x: Tensor, _ weight: Weight, adding base: Tensor? = nil, into y: Tensor) {
    device.matmul(x, transposed: false, weight.operand, transposed: true, adding: base, into: y)
  }
  /// dx = dy W.
  func linearBackward(_ dy: Tensor, _ weight: Weight, into dx: Tensor) {
    device.matmul(dy, transposed: false, weight.operand, transposed: false, adding: nil, into: dx)
  }
  /// dW = dy^T x, or dW += dy^T x.
  func weightGradient(_ dy: Tensor, _ x: Tensor, _ weight: Weight, in gradient: StageGradient) {
    let dW = weight.gradient(in: gradient)
    device.matmul(dy, transposed: true, x, transposed: false, adding: gradient.adds ? dW : nil, into: dW)
  }
  func norm(_ x: Tensor, _ weight: Weight, into y: Tensor, inverse: Tensor) {
    device.rmsNorm(x, weight: weight.value, epsilon: model.normEpsilon, into: y, inverse: inverse)
  }
}

/// The keys that each query of a microbatch sees: int32 [T] each.
struct KeyIntervals {
  let start, end: Tensor
}
