import CVector
import KernelInterface

/// Products of float32 operands: strips of 8 rows and 32 columns, whose sixteen sums of sixteen lanes stay in the
/// registers of AVX-512. (They would spill from those of AVX2, where the products are oneDNN's.)
public let productKernels = ProductKernels(
  leftLines: 8, rightLines: 32, innerStep: 1, elementBytes: 4, blockBytes: 512 << 10, leftRowsLimit: 256,
  pack: { packKernel($0) }, multiply: { multiplyKernel($0) })

private var leftLines: Int { 8 }
private var rightLines: Int { 32 }

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
  if block.rows == leftLines, block.columns == rightLines, !p.cIsBFloat16 {
    multiplyStrips(
      p, block.leftStrip, right, block.initial, p.initialStride, block.c.assumingMemoryBound(to: Float.self),
      p.cStride)
    return
  }
  p.throughScratch(block, lines: rightLines) {
    multiplyStrips(p, block.leftStrip, right, $0, rightLines, $1, rightLines)
  } narrow: { sums in
    // Each is read before anything is written over it.
    for index in 0..<leftLines * rightLines {
      BFloat16.store(one: sums[index], MutableBytes(sums) + index * BFloat16.sizeBytes)
    }
  }
}

/// Two vectors of one row of c.
private struct RowSums {
  var a, b: Vector

  @inline(__always)
  init(_ initial: Floats?, _ offset: Int) {
    guard let initial else {
      (a, b) = (.zero, .zero)
      return
    }
    a = Float.load(initial + offset)
    b = Float.load(initial + offset + 16)
  }
  @inline(__always)
  mutating func add(_ left: Float, _ x: Vector, _ y: Vector) {
    let factor = splat(left)
    a = a.addingProduct(factor, x)
    b = b.addingProduct(factor, y)
  }
  @inline(__always)
  func store(_ target: MutableFloats) {
    Float.store(a, target)
    Float.store(b, target + 16)
  }
}

/// Eight rows, packed side by side or as they lie in memory.
private struct LeftStrip {
  let first: Floats
  /// Elements from row to row, and from one inner element to the next.
  let row, inner: Int
}

/// Picks the loop: with packed rows all distances are constants.
@inline(__always)
private func multiplyStrips(
  _ p: PackedProduct, _ strip: Int, _ right: Floats, _ initial: Floats?, _ initialStride: Int, _ c: MutableFloats,
  _ stride: Int
) {
  let left = p.left.assumingMemoryBound(to: Float.self) + strip * leftLines * (p.leftStride ?? p.inner)
  if let row = p.leftStride {
    multiplyStrips(LeftStrip(first: left, row: row, inner: 1), right, p.inner, initial, initialStride, c, stride)
  } else {
    multiplyStrips(
      LeftStrip(first: left, row: 1, inner: leftLines), right, p.inner, initial, initialStride, c, stride)
  }
}

/// c[8, 32] = initial + left strip x right strip, all sums in registers.
@inline(__always)
private func multiplyStrips(
  _ left: LeftStrip, _ right: Floats, _ inner: Int, _ initial: Floats?, _ initialStride: Int, _ c: MutableFloats,
  _ stride: Int
) {
  var row0 = RowSums(initial, 0)
  var row1 = RowSums(initial, initialStride)
  var row2 = RowSums(initial, 2 * initialStride)
  var row3 = RowSums(initial, 3 * initialStride)
  var row4 = RowSums(initial, 4 * initialStride)
  var row5 = RowSums(initial, 5 * initialStride)
  var row6 = RowSums(initial, 6 * initialStride)
  var row7 = RowSums(initial, 7 * initialStride)
  // Two pointers and multiples of one stride reach all rows.
  var (upper, b) = (left.first, right)
  var lower = left.first + 4 * left.row
  for _ in 0..<inner {
    let (x, y) = (Float.load(b), Float.load(b + 16))
    row0.add(upper[0], x, y)
    row1.add(upper[left.row], x, y)
    row2.add(upper[2 * left.row], x, y)
    row3.add(upper[3 * left.row], x, y)
    row4.add(lower[0], x, y)
    row5.add(lower[left.row], x, y)
    row6.add(lower[2 * left.row], x, y)
    row7.add(lower[3 * left.row], x, y)
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
