/// Matrix products of packed operands, with float32 sums.
///
/// A *strip* is a fixed number of rows of the left operand or of columns of the right one. A packed operand holds strip
/// after strip as the kernel reads them, zeros where the matrix ends. An element of a product is the sum over the inner
/// dimension in its order, whatever is computed with it: a product may be cut anywhere.
public struct ProductKernels: Sendable {
  /// Rows of a left strip, columns of a right one.
  public let leftLines: Int
  public let rightLines: Int
  /// The inner dimension is padded to a multiple of this.
  public let innerStep: Int
  public let elementBytes: Int
  /// What `Packing.scratch` and `PackedProduct.scratch` must hold: one block, where a matrix ends inside it.
  public static let scratchBytes = 4_096
  /// A packed block that fits the second-level cache of the processors this is for, beside what else goes by.
  public let blockBytes: Int
  /// Longest inner dimension for which a left operand of whole strips and steps, whose rows are contiguous, is read
  /// where it lies. Longer rows are so far apart that the caches' prefetching loses them.
  public let leftRowsLimit: Int
  public let pack: @Sendable (Packing) -> Void
  public let multiply: @Sendable (PackedProduct) -> Void

  public init(
    leftLines: Int, rightLines: Int, innerStep: Int, elementBytes: Int, blockBytes: Int, leftRowsLimit: Int,
    pack: @escaping @Sendable (Packing) -> Void, multiply: @escaping @Sendable (PackedProduct) -> Void
  ) {
    self.leftLines = leftLines
    self.rightLines = rightLines
    self.innerStep = innerStep
    self.elementBytes = elementBytes
    self.blockBytes = blockBytes
    self.leftRowsLimit = leftRowsLimit
    self.pack = pack
    self.multiply = multiply
  }

  public func lines(_ side: OperandSide) -> Int { side == .left ? leftLines : rightLines }
  /// Bytes of one packed strip.
  public func stripBytes(_ side: OperandSide, inner: Int) -> Int {
    (inner + innerStep - 1) / innerStep * innerStep * lines(side) * elementBytes
  }
  /// Bytes of a packed operand of `lines` rows or columns.
  public func packedBytes(_ side: OperandSide, lines count: Int, inner: Int) -> Int {
    (count + lines(side) - 1) / lines(side) * stripBytes(side, inner: inner)
  }
}

public enum OperandSide: Sendable {
  case left
  case right
}

/// One operand, or a part of it, to be packed.
public struct Packing {
  public var side: OperandSide
  /// First element: row (left) or column (right) 0, inner 0.
  public var source: Bytes
  /// Elements between lines as they lie in memory.
  public var stride: Int
  /// Whether the inner dimension is the contiguous one.
  public var innerIsContiguous: Bool
  /// Rows (left) or columns (right), and elements of the inner dimension.
  public var lines: Int
  public var inner: Int
  /// Where the first inner element of the first strip goes.
  public var packed: MutableBytes
  /// Bytes from one packed strip to the next.
  public var stripBytes: Int
  /// `ProductKernels.scratchBytes`, for this call alone.
  public var scratch: MutableBytes
  public init(
    side: OperandSide, source: Bytes, stride: Int, innerIsContiguous: Bool, lines: Int, inner: Int,
    packed: MutableBytes, stripBytes: Int, scratch: MutableBytes
  ) {
    self.side = side
    self.source = source
    self.stride = stride
    self.innerIsContiguous = innerIsContiguous
    self.lines = lines
    self.inner = inner
    self.packed = packed
    self.stripBytes = stripBytes
    self.scratch = scratch
  }
}

/// c[rows, columns] = left x right, or the same added to `initial`.
public struct PackedProduct {
  /// Packed, or rows as they lie in memory where `leftStride` says so.
  public var left: Bytes
  /// Elements between rows of a left operand that is not packed.
  public var leftStride: Int?
  /// Packed.
  public var right: Bytes
  public var rows: Int
  public var columns: Int
  public var inner: Int
  /// float32 or bfloat16, `cStride` elements between rows.
  public var c: MutableBytes
  public var cIsBFloat16: Bool
  public var cStride: Int
  /// float32, `initialStride` elements between rows; may be `c`.
  public var initial: Floats?
  public var initialStride: Int
  /// Which side's strips the outer loop goes through: the inner one's should fit the second-level cache.
  public var outer: OperandSide
  /// `ProductKernels.scratchBytes`, for this call alone.
  public var scratch: MutableBytes
  public init(
    left: Bytes, leftStride: Int? = nil, right: Bytes, rows: Int, columns: Int, inner: Int, c: MutableBytes,
    cIsBFloat16: Bool, cStride: Int, initial: Floats? = nil, initialStride: Int = 0, outer: OperandSide,
    scratch: MutableBytes
  ) {
    self.left = left
    self.leftStride = leftStride
    self.right = right
    self.rows = rows
    self.columns = columns
    self.inner = inner
    self.c = c
    self.cIsBFloat16 = cIsBFloat16
    self.cStride = cStride
    self.initial = initial
    self.initialStride = initialStride
    self.outer = outer
    self.scratch = scratch
  }
}
