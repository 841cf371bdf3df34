/// Which build of the kernels runs: one value per compiled copy of the same sources.
public enum InstructionSet: String, Sendable, Hashable, CaseIterable {
  case portable
  case avx2
  case avx512
}

public typealias Floats = UnsafePointer<Float>
public typealias MutableFloats = UnsafeMutablePointer<Float>
public typealias Bytes = UnsafeRawPointer
public typealias MutableBytes = UnsafeMutableRawPointer

/// The SIMD loops of one instruction set, as function values so that the choice is made once, at start.
///
/// All of them work on one thread and on the rows or elements they are given. Pointers need the alignment of
/// their element only. Nothing here allocates. `Compute` is the only caller and owner of the memory.
public struct KernelTable: Sendable {
  /// Kernels whose operands are float32.
  public var float32: TypedKernels
  /// The same with bfloat16 operands; sums and intermediate values stay float32.
  public var bfloat16: TypedKernels
  public var plain: PlainKernels
  public init(float32: TypedKernels, bfloat16: TypedKernels, plain: PlainKernels) {
    self.float32 = float32
    self.bfloat16 = bfloat16
    self.plain = plain
  }
}

/// Kernels that exist once per compute type; raw pointers hold elements of that type.
public struct TypedKernels: Sendable {
  /// (source, destination, count): to float32.
  public var widen: @Sendable (Bytes, MutableFloats, Int) -> Void
  /// (source, destination, count): from float32, to nearest even.
  public var narrow: @Sendable (Floats, MutableBytes, Int) -> Void
  /// (bias, rows, row count, width)
  public var addBias: @Sendable (Floats, MutableBytes, Int, Int) -> Void
  /// (rows, row count, row stride in elements, width, sums): sums += the sum of the rows.
  public var addColumnSums: @Sendable (Bytes, Int, Int, Int, MutableFloats) -> Void
  /// (x, weight, epsilon, y, inverse, row count, width)
  public var rmsNorm: @Sendable (Floats, Floats, Float, MutableBytes, MutableFloats, Int, Int) -> Void
  /// (dy, x, weight, inverse, dx, weight partial, row count, width): dx +=, the partial is overwritten.
  public var rmsNormBackward: @Sendable (Bytes, Floats, Floats, Floats, MutableFloats, MutableFloats, Int, Int) -> Void
  /// (rows, row count, row stride, heads, head size, cosine, sine, inverse)
  public var rotate: @Sendable (MutableBytes, Int, Int, Int, Int, Floats, Floats, Bool) -> Void
  /// (gate and up, output, row count, width)
  public var swiGLU: @Sendable (Bytes, MutableBytes, Int, Int) -> Void
  /// (output gradient, gate and up, their gradient, output, row count, width)
  public var swiGLUBackward: @Sendable (Bytes, Bytes, MutableBytes, MutableBytes, Int, Int) -> Void
  /// (x, y, count)
  public var silu: @Sendable (Bytes, MutableBytes, Int) -> Void
  /// (dy, x, dx, count)
  public var siluBackward: @Sendable (Bytes, Bytes, MutableBytes, Int) -> Void
  public var softmaxTile: @Sendable (SoftmaxTile) -> Void
  /// (accumulated output, softmax state, output, output row stride, log-sum-exp, row count, head size)
  public var softmaxFinish: @Sendable (Floats, SoftmaxState, MutableBytes, Int, MutableFloats, Int, Int) -> Void
  /// (output gradient, output, row stride, row count, head size, result): row-wise dot products.
  public var rowDots: @Sendable (Bytes, Bytes, Int, Int, Int, MutableFloats) -> Void
  public var softmaxGradientTile: @Sendable (SoftmaxGradientTile) -> Void
  /// (logits, width, target, gradient scale, gradient): returns -log softmax(logits)[target]; the gradient of
  /// scale times that is written where asked.
  public var crossEntropy: @Sendable (Floats, Int, Int, Float, MutableBytes?) -> Float

  public init(
    widen: @escaping @Sendable (Bytes, MutableFloats, Int) -> Void,
    narrow: @escaping @Sendable (Floats, MutableBytes, Int) -> Void,
    addBias: @escaping @Sendable (Floats, MutableBytes, Int, Int) -> Void,
    addColumnSums: @escaping @Sendable (Bytes, Int, Int, Int, MutableFloats) -> Void,
    rmsNorm: @escaping @Sendable (Floats, Floats, Float, MutableBytes, MutableFloats, Int, Int) -> Void,
    rmsNormBackward:
      @escaping @Sendable (Bytes, Floats, Floats, Floats, MutableFloats, MutableFloats, Int, Int) -> Void,
    rotate: @escaping @Sendable (MutableBytes, Int, Int, Int, Int, Floats, Floats, Bool) -> Void,
    swiGLU: @escaping @Sendable (Bytes, MutableBytes, Int, Int) -> Void,
    swiGLUBackward: @escaping @Sendable (Bytes, Bytes, MutableBytes, MutableBytes, Int, Int) -> Void,
    silu: @escaping @Sendable (Bytes, MutableBytes, Int) -> Void,
    siluBackward: @escaping @Sendable (Bytes, Bytes, MutableBytes, Int) -> Void,
    softmaxTile: @escaping @Sendable (SoftmaxTile) -> Void,
    softmaxFinish: @escaping @Sendable (Floats, SoftmaxState, MutableBytes, Int, MutableFloats, Int, Int) -> Void,
    rowDots: @escaping @Sendable (Bytes, Bytes, Int, Int, Int, MutableFloats) -> Void,
    softmaxGradientTile: @escaping @Sendable (SoftmaxGradientTile) -> Void,
    crossEntropy: @escaping @Sendable (Floats, Int, Int, Float, MutableBytes?) -> Float
  ) {
    self.widen = widen
    self.narrow = narrow
    self.addBias = addBias
    self.addColumnSums = addColumnSums
    self.rmsNorm = rmsNorm
    self.rmsNormBackward = rmsNormBackward
    self.rotate = rotate
    self.swiGLU = swiGLU
    self.swiGLUBackward = swiGLUBackward
    self.silu = silu
    self.siluBackward = siluBackward
    self.softmaxTile = softmaxTile
    self.softmaxFinish = softmaxFinish
    self.rowDots = rowDots
    self.softmaxGradientTile = softmaxGradientTile
    self.crossEntropy = crossEntropy
  }
}

/// Kernels on float32 alone.
public struct PlainKernels: Sendable {
  /// (source, destination, count): destination += source.
  public var add: @Sendable (Floats, MutableFloats, Int) -> Void
  /// (clean, noise, signal, sigma, noisy, count)
  public var mix: @Sendable (Floats, Floats, Float, Float, MutableFloats, Int) -> Void
  /// (prediction, target, gradient scale, gradient, rows, width): returns the sum of squared differences; the
  /// gradient, where asked, is gradient scale times the difference.
  public var squaredError: @Sendable (Floats, Floats, Float, MutableFloats?, Int, Int) -> Double
  /// (values, count): the sum of squares in double precision.
  public var sumOfSquares: @Sendable (Floats, Int) -> Double
  public var adamW: @Sendable (AdamWSlice) -> Void

  public init(
    add: @escaping @Sendable (Floats, MutableFloats, Int) -> Void,
    mix: @escaping @Sendable (Floats, Floats, Float, Float, MutableFloats, Int) -> Void,
    squaredError: @escaping @Sendable (Floats, Floats, Float, MutableFloats?, Int, Int) -> Double,
    sumOfSquares: @escaping @Sendable (Floats, Int) -> Double,
    adamW: @escaping @Sendable (AdamWSlice) -> Void
  ) {
    self.add = add
    self.mix = mix
    self.squaredError = squaredError
    self.sumOfSquares = sumOfSquares
    self.adamW = adamW
  }
}
