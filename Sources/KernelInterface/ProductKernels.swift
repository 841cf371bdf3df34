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
  /// Bytes of an element in memory, and packed.
  public let elementBytes: Int
  public let packedElementBytes: Int
  /// What `Packing.scratch` and `PackedProduct.scratch` must hold: one block, where a matrix ends inside it.
  public static let scratchBytes = 4_096
  /// A packed block that fits the second-level cache of the processors this is for, beside what else goes by.
  public let blockBytes: Int
  /// Longest inner dimension for which a left operand of whole strips and steps, whose rows are contiguous, is read
  /// where it lies. Longer rows are so far apart that the caches' prefetching loses them. 0 where packing makes other
  /// elements than memory has.
  public let leftRowsLimit: Int
  public let pack: @Sendable (Packing) -> Void
  public let multiply: @Sendable (PackedProduct) -> Void

  public init(
    leftLines: Int, rightLines: Int, innerStep: Int, elementBytes: Int, packedElementBytes: Int, blockBytes: Int,
    leftRowsLimit: Int, pack: @escaping @Sendable (Packing) -> Void,
    multiply: @escaping @Sendable (PackedProduct) -> Void
  ) {
    precondition(leftRowsLimit == 0 || elementBytes == packedElementBytes, "rows that lie there are no packed ones")
    self.leftLines = leftLines
    self.rightLines = rightLines
    self.innerStep = innerStep
    self.elementBytes = elementBytes
    self.packedElementBytes = packedElementBytes
    self.blockBytes = blockBytes
    self.leftRowsLimit = leftRowsLimit
    self.pack = pack
    self.multiply = multiply
  }

  public func lines(_ side: OperandSide) -> Int { side == .left ? leftLines : rightLines }
  /// Bytes of one packed strip.
  public func stripBytes(_ side: OperandSide, inner: Int) -> Int {
    (inner + innerStep - 1) / innerStep * innerStep * lines(side) * packedElementBytes
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

/// Which part of a product is wanted, by strip of `ProductKernels.leftLines` rows. Kernels make whole blocks, and may make
/// more than they are asked for.
public struct ProductReach {
  public enum Axis: Sendable {
    /// Columns of c: its other elements may be left as they are.
    case columns
    /// The inner dimension: the left operand is zero elsewhere.
    case inner
  }
  public var axis: Axis
  /// One range for each strip of rows.
  public var ranges: UnsafePointer<Range<Int32>>
  public init(_ axis: Axis, _ ranges: UnsafePointer<Range<Int32>>) {
    self.axis = axis
    self.ranges = ranges
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
  /// Everything is wanted where nil.
  public var reach: ProductReach?
  /// `ProductKernels.scratchBytes`, for this call alone.
  public var scratch: MutableBytes
  public init(
    left: Bytes, leftStride: Int? = nil, right: Bytes, rows: Int, columns: Int, inner: Int, c: MutableBytes,
    cIsBFloat16: Bool, cStride: Int, initial: Floats? = nil, initialStride: Int = 0, outer: OperandSide,
    reach: ProductReach? = nil, scratch: MutableBytes
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
    self.reach = reach
    self.scratch = scratch
  }
}

/// What one strip of rows and one of columns give of a product.
public struct ProductBlock {
  public let leftStrip, rightStrip: Int
  /// What the matrix has of the strips: fewer than their lines where it ends inside the block.
  public let rows, columns: Int
  /// Where the left strip is not known to be zero.
  public let inner: Range<Int>
  /// First element.
  public let initial: Floats?
  public let c: MutableBytes

  @usableFromInline
  init(
    leftStrip: Int, rightStrip: Int, rows: Int, columns: Int, inner: Range<Int>, initial: Floats?, c: MutableBytes
  ) {
    self.leftStrip = leftStrip
    self.rightStrip = rightStrip
    self.rows = rows
    self.columns = columns
    self.inner = inner
    self.initial = initial
    self.c = c
  }
}

extension PackedProduct {
  @inlinable public var cBytes: Int { cIsBFloat16 ? 2 : 4 }

  /// Calls `body` for every block that is wanted, in the order that `outer` asks for.
  @inlinable @inline(__always)
  public func forEachBlock(leftLines: Int, rightLines: Int, _ body: (ProductBlock) -> Void) {
    let leftStrips = (rows + leftLines - 1) / leftLines
    let rightStrips = (columns + rightLines - 1) / rightLines
    for outerStrip in 0..<(outer == .left ? leftStrips : rightStrips) {
      for innerStrip in 0..<(outer == .left ? rightStrips : leftStrips) {
        let (left, right) = outer == .left ? (outerStrip, innerStrip) : (innerStrip, outerStrip)
        let (row, column) = (left * leftLines, right * rightLines)
        var wanted = 0..<inner
        if let reach {
          let range = Int(reach.ranges[left].lowerBound)..<Int(reach.ranges[left].upperBound)
          switch reach.axis {
          case .columns: if range.upperBound <= column || range.lowerBound >= column + rightLines { continue }
          case .inner: wanted = range
          }
        }
        body(
          ProductBlock(
            leftStrip: left, rightStrip: right, rows: min(leftLines, rows - row),
            columns: min(rightLines, columns - column), inner: wanted,
            initial: initial.map { $0 + row * initialStride + column },
            c: c + (row * cStride + column) * cBytes))
      }
    }
  }

  /// A block through `scratch`, whose lines are `lines` elements: where the matrix ends inside it nothing beyond is
  /// read or written, and c may be narrower than the sums.
  /// - Parameters:
  ///   - multiply: (initial, sums): makes the whole block's sums.
  ///   - narrow: turns the sums into bfloat16 where they are, without gaps.
  @inlinable @inline(__always)
  public func throughScratch(
    _ block: ProductBlock, lines: Int, multiply: (Floats?, MutableFloats) -> Void, narrow: (MutableFloats) -> Void
  ) {
    let sums = scratch.assumingMemoryBound(to: Float.self)
    if let initial = block.initial {
      for row in 0..<block.rows {
        for column in 0..<block.columns { sums[row * lines + column] = initial[row * initialStride + column] }
      }
    }
    multiply(block.initial == nil ? nil : Floats(sums), sums)
    if cIsBFloat16 {
      narrow(sums)
      store(block, lines: lines, as: UInt16.self)
    } else {
      store(block, lines: lines, as: Float.self)
    }
  }

  @inlinable @inline(__always)
  func store<Element: BitwiseCopyable>(_ block: ProductBlock, lines: Int, as type: Element.Type) {
    let size = MemoryLayout<Element>.size
    for row in 0..<block.rows {
      for column in 0..<block.columns {
        let value = scratch.load(fromByteOffset: (row * lines + column) * size, as: type)
        block.c.storeBytes(of: value, toByteOffset: (row * cStride + column) * size, as: type)
      }
    }
  }
}
