import KernelInterface

/// The kernels compiled for this module's instruction set.
public let kernelTable = KernelTable(
  float32: typedKernels(Float.self), bfloat16: typedKernels(BFloat16.self),
  plain: PlainKernels(
    add: { addKernel($0, $1, $2) },
    mix: { mixKernel($0, $1, $2, $3, $4, $5) },
    squaredError: { squaredErrorKernel($0, $1, $2, $3, $4, $5) },
    sumOfSquares: { sumOfSquaresKernel($0, $1) },
    adamW: { adamWKernel($0) }))

/// Inlined into `kernelTable`, where `E` is known: no kernel is compiled generically.
@inline(__always)
private func typedKernels<E: ComputeElement & Sendable>(_: E.Type) -> TypedKernels {
  TypedKernels(
    widen: { widenKernel(E.self, $0, $1, $2) },
    narrow: { narrowKernel(E.self, $0, $1, $2) },
    addBias: { addBiasKernel(E.self, $0, $1, $2, $3) },
    addColumnSums: { addColumnSumsKernel(E.self, $0, $1, $2, $3, $4) },
    rmsNorm: { rmsNormKernel(E.self, $0, $1, $2, $3, $4, $5, $6) },
    rmsNormBackward: { rmsNormBackwardKernel(E.self, $0, $1, $2, $3, $4, $5, $6, $7) },
    rotate: { rotateKernel(E.self, $0, $1, $2, $3, $4, $5, $6, $7) },
    swiGLU: { swiGLUKernel(E.self, $0, $1, $2, $3) },
    swiGLUBackward: { swiGLUBackwardKernel(E.self, $0, $1, $2, $3, $4, $5) },
    silu: { siluKernel(E.self, $0, $1, $2) },
    siluBackward: { siluBackwardKernel(E.self, $0, $1, $2, $3) },
    softmaxTile: { softmaxTileKernel(E.self, $0) },
    softmaxFinish: { softmaxFinishKernel(E.self, $0, $1, $2, $3, $4, $5, $6) },
    rowDots: { rowDotsKernel(E.self, $0, $1, $2, $3, $4, $5) },
    softmaxGradientTile: { softmaxGradientTileKernel(E.self, $0) },
    crossEntropy: { crossEntropyKernel(E.self, $0, $1, $2, $3, $4) })
}
