import CVector
import KernelInterface

/// Products of float32 operands: strips of 8 rows and 48 columns, whose 24 sums of sixteen lanes stay in the registers
/// of AVX-512. (They would spill from those of AVX2, where the products are oneDNN's.) With fewer columns or rows the
/// second-level cache brings the strips no faster than they are multiplied.
public let productKernels = ProductKernels(
  leftLines: 8, rightLines: 48, innerStep: 1, elementBytes: 4, blockBytes: 512 << 10, leftRowsLimit: 256,
  pack: { packKernel($0) }, multiply: { multiplyKernel($0) })

private var leftLines: Int { 8 }
private var rightLines: Int { 48 }

/// A packed strip holds its lines side by side for each inner element.
private func packKernel(_ p: Packing) {
  let source = p.source.assumingMemoryBound(to: Float.self)
  let extent = p.side == .left ? leftLines : rightLines
  if p.innerIsContiguous {
    for first in stride(from: 0, to: p.lines, by: extent) {
      let target = (p.packed + first / extent * p.stripBytes).assumingMemoryBound(to: Float.self)
      packTransposed(source + first * p.stride, p.stride, min(extent, p.lines - first), extent, p.inner, target)
    }
    return
  }
  for index in 0..<p.inner {
    let row = source + index * p.stride
    for first in stride(from: 0, to: p.lines, by: extent) {
      let target = (p.packed + first / extent * p.stripBytes).assumingMemoryBound(to: Float.self) + index * extent
      let lines = min(extent, p.lines - first)
      if lines == extent {
        forEachVector(extent) { start, lanes in
          if lanes == width {
            Float.store(Float.load(row + first + start), target + start)
          } else {
            Float.store(half: row + first + start, target + start)
          }
        }
      } else {
        for line in 0..<extent { target[line] = line < lines ? row[first + line] : 0 }
      }
    }
  }
}

extension Float {
  /// Eight elements: what a left strip has beyond whole vectors.
  @inline(__always)
  fileprivate static func store(half source: Floats, _ target: MutableFloats) {
    let eight = UnsafeRawPointer(source).loadUnaligned(as: SIMD8<Float>.self)
    UnsafeMutableRawPointer(target).storeBytes(of: eight, as: SIMD8<Float>.self)
  }
}

/// Lines of contiguous inner elements, sixteen by sixteen (or by eight) through registers.
@inline(__always)
private func packTransposed(
  _ source: Floats, _ stride: Int, _ lines: Int, _ extent: Int, _ inner: Int, _ target: MutableFloats
) {
  var index = 0
  if lines == extent {
    while index + 16 <= inner {
      var line = 0
      while line + 16 <= extent {
        vector_transpose16(source + line * stride + index, stride, target + index * extent + line, extent)
        line += 16
      }
      if line < extent {
        vector_transpose8(source + line * stride + index, stride, target + index * extent + line, extent)
      }
      index += 16
    }
  }
  while index < inner {
    for line in 0..<extent { target[index * extent + line] = line < lines ? source[line * stride + index] : 0 }
    index += 1
  }
}

private func multiplyKernel(_ p: PackedProduct) {
  p.forEachBlock(leftLines: leftLines, rightLines: rightLines) { multiplyBlock(p, $0) }
}

@inline(__always)
private func multiplyBlock(_ p: PackedProduct, _ block: ProductBlock) {
  let right = p.right.assumingMemoryBound(to: Float.self) + block.rightStrip * p.inner * rightLines
  if block.rows == leftLines, block.columns % width == 0, !p.cIsBFloat16 {
    let c = block.c.assumingMemoryBound(to: Float.self)
    multiplyStrips(p, block, right, block.initial, p.initialStride, c, p.cStride)
    return
  }
  p.throughScratch(block, lines: rightLines) {
    multiplyStrips(p, block, right, $0, rightLines, $1, rightLines)
  } narrow: { sums in
    // Each is read before anything is written over it.
    for index in 0..<leftLines * rightLines {
      BFloat16.store(one: sums[index], MutableBytes(sums) + index * BFloat16.sizeBytes)
    }
  }
}

/// Sums of one row of c in registers.
private protocol RowSums {
  static var vectors: Int { get }
  init(_ initial: Floats?, _ offset: Int)
  /// Adds the product of an element of the left operand and the row of the right one at `right`.
  mutating func add(_ left: Float, _ right: Floats)
  func store(_ target: MutableFloats)
}

/// A vector of a row of c.
private struct OneVector: RowSums {
  @inline(__always) static var vectors: Int { 1 }
  var sums: Vector

  @inline(__always)
  init(_ initial: Floats?, _ offset: Int) { sums = initial.map { Float.load($0 + offset) } ?? .zero }

  @inline(__always)
  mutating func add(_ left: Float, _ right: Floats) { sums = sums.addingProduct(splat(left), Float.load(right)) }

  @inline(__always)
  func store(_ target: MutableFloats) { Float.store(sums, target) }
}

/// Vectors of a row of c, side by side.
private struct Vectors<Rest: RowSums>: RowSums {
  @inline(__always) static var vectors: Int { 1 + Rest.vectors }
  var first: OneVector
  var rest: Rest

  @inline(__always)
  init(_ initial: Floats?, _ offset: Int) {
    first = OneVector(initial, offset)
    rest = Rest(initial, offset + width)
  }
  @inline(__always)
  mutating func add(_ left: Float, _ right: Floats) {
    first.add(left, right)
    rest.add(left, right + width)
  }
  @inline(__always)
  func store(_ target: MutableFloats) {
    first.store(target)
    rest.store(target + width)
  }
}

/// Eight rows, packed side by side or as they lie in memory.
private struct LeftStrip {
  let first: Floats
  /// Elements from row to row, and from one inner element to the next.
  let row, inner: Int
}

/// Picks the loop: with packed rows all distances are constants, and a strip that the matrix ends in has fewer vectors.
@inline(__always)
private func multiplyStrips(
  _ p: PackedProduct, _ block: ProductBlock, _ right: Floats, _ initial: Floats?, _ initialStride: Int,
  _ c: MutableFloats, _ stride: Int
) {
  let left = p.left.assumingMemoryBound(to: Float.self) + block.leftStrip * leftLines * (p.leftStride ?? p.inner)
  @inline(__always)
  func multiply<Row: RowSums>(_ rows: Row.Type) {
    if let row = p.leftStride {
      multiplyStrips(
        rows, LeftStrip(first: left, row: row, inner: 1), right, p.inner, initial, initialStride, c, stride)
    } else {
      multiplyStrips(
        rows, LeftStrip(first: left, row: 1, inner: leftLines), right, p.inner, initial, initialStride, c, stride)
    }
  }
  if block.columns > 2 * width {
    multiply(Vectors<Vectors<OneVector>>.self)
  } else if block.columns > width {
    multiply(Vectors<OneVector>.self)
  } else {
    multiply(OneVector.self)
  }
}

/// c[8, vectors of a row] = initial + left strip x right strip, all sums in registers.
@inline(__always)
private func multiplyStrips<Row: RowSums>(
  _ rows: Row.Type, _ left: LeftStrip, _ right: Floats, _ inner: Int, _ initial: Floats?, _ initialStride: Int,
  _ c: MutableFloats, _ stride: Int
) {
  var row0 = Row(initial, 0)
  var row1 = Row(initial, initialStride)
  var row2 = Row(initial, 2 * initialStride)
  var row3 = Row(initial, 3 * initialStride)
  var row4 = Row(initial, 4 * initialStride)
  var row5 = Row(initial, 5 * initialStride)
  var row6 = Row(initial, 6 * initialStride)
  var row7 = Row(initial, 7 * initialStride)
  // Two pointers and multiples of one stride reach all rows.
  var (upper, b) = (left.first, right)
  var lower = left.first + 4 * left.row
  for _ in 0..<inner {
    // The strip is longer than the first-level cache: ask for what comes eight inner elements later.
    for vector in 0..<Row.vectors { vector_prefetch(b + 8 * rightLines + vector * width) }
    row0.add(upper[0], b)
    row1.add(upper[left.row], b)
    row2.add(upper[2 * left.row], b)
    row3.add(upper[3 * left.row], b)
    row4.add(lower[0], b)
    row5.add(lower[left.row], b)
    row6.add(lower[2 * left.row], b)
    row7.add(lower[3 * left.row], b)
    upper += left.inner
    lower += left.inner
    b += rightLines
  }
  row0.store(c)
  row1.store(c + stride)
  row2.store(c + 2 * stride)
  row3.store(c + 3 * stride)
  row4.store(c + 4 * stride)
  row5.store(c + 5 * stride)
  row6.store(c + 6 * stride)
  row7.store(c + 7 * stride)
}
