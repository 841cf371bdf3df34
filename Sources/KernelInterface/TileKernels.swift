/// Matrix products of bfloat16 operands with float32 sums on tile registers (x86 AMX).
///
/// A *strip* is 32 rows of the left operand or 32 columns of the right one, a *step* 32 elements of the summed
/// dimension. Packed operands hold strip after strip, in each step after step: 2 KiB a step, zeros where the matrix
/// ends. An element of a product is the sum over steps in order, whatever is computed with it.
public struct TileKernels: Sendable {
  public var pack: @Sendable (TilePacking) -> Void
  public var multiply: @Sendable (TileProduct) -> Void
  public init(pack: @escaping @Sendable (TilePacking) -> Void, multiply: @escaping @Sendable (TileProduct) -> Void) {
    self.pack = pack
    self.multiply = multiply
  }

  /// Rows or columns of a strip, and elements of a step.
  public static let extent = 32
  /// Bytes of one packed step of one strip.
  public static let stepBytes = 2_048

  /// Bytes of a packed operand of `lines` rows or columns and `inner` elements of the summed dimension.
  public static func packedBytes(lines: Int, inner: Int) -> Int {
    (lines + extent - 1) / extent * stripBytes(inner: inner)
  }
  public static func stripBytes(inner: Int) -> Int { (inner + extent - 1) / extent * stepBytes }
}

public enum TileSide: Sendable {
  case left
  case right
}

/// One operand, or a range of its strips, to be packed.
public struct TilePacking {
  public var side: TileSide
  /// First element: row (left) or column (right) 0, inner 0.
  public var source: Bytes
  /// Elements between lines as they lie in memory.
  public var stride: Int
  /// Whether the summed dimension is the contiguous one.
  public var innerIsContiguous: Bool
  /// Rows (left) or columns (right), and elements of the summed dimension.
  public var lines: Int
  public var inner: Int
  /// Where the first step of the first strip goes.
  public var packed: MutableBytes
  /// Bytes from one packed strip to the next.
  public var stripBytes: Int
  public init(
    side: TileSide, source: Bytes, stride: Int, innerIsContiguous: Bool, lines: Int, inner: Int, packed: MutableBytes,
    stripBytes: Int
  ) {
    self.side = side
    self.source = source
    self.stride = stride
    self.innerIsContiguous = innerIsContiguous
    self.lines = lines
    self.inner = inner
    self.packed = packed
    self.stripBytes = stripBytes
  }
}

/// c[rows, columns] = left x right, or the same added to `initial`.
public struct TileProduct {
  /// Packed, or rows as they lie in memory where `leftStride` says so.
  public var left: Bytes
  /// Elements between rows of an unpacked left operand, whose rows and inner elements are whole strips and steps.
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
  public var outer: TileSide
  public init(
    left: Bytes, leftStride: Int? = nil, right: Bytes, rows: Int, columns: Int, inner: Int, c: MutableBytes,
    cIsBFloat16: Bool, cStride: Int, initial: Floats? = nil, initialStride: Int = 0, outer: TileSide
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
  }
}
