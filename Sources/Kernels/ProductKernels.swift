import CVector
import KernelInterface

/// What the kernels multiply lane by lane: as much of the inner dimension of an operand as 32 bits hold.
protocol ProductLane {
  /// Elements of the inner dimension in a lane.
  static var elements: Int { get }
  /// sums + left x right, whose lanes are made by the packing (or are a left operand's memory); only bits pass as `Float`.
  static func add(_ left: Float, _ right: Vector, to sums: Vector) -> Vector
  /// One lane of a line whose inner elements are `next` bytes apart; the matrix has `elements` of them.
  static func pack(line: Bytes, _ next: Int, _ elements: Int) -> UInt32
  /// The same for sixteen (or eight) lines side by side in memory, of whole lanes.
  static func pack16(lines: Bytes, _ next: Int, _ target: MutableBytes)
  static func pack8(lines: Bytes, _ next: Int, _ target: MutableBytes)
}

/// Strips of 8 rows and 48 columns, whose 24 sums of sixteen lanes stay in the registers of AVX-512. With fewer columns
/// or rows the second-level cache brings the strips no faster than they are multiplied.
@inline(__always)
func stripKernels<Lane: ProductLane>(_ lane: Lane.Type, leftRowsLimit: Int) -> ProductKernels {
  ProductKernels(
    leftLines: leftLines, rightLines: rightLines, innerStep: Lane.elements, elementBytes: laneBytes / Lane.elements,
    blockBytes: 512 << 10, leftRowsLimit: leftRowsLimit, pack: { packKernel(Lane.self, $0) },
    multiply: { multiplyKernel(Lane.self, $0) })
}

private var leftLines: Int { 8 }
private var rightLines: Int { 48 }
private var laneBytes: Int { 4 }

/// A packed strip holds its lines side by side for each lane of the inner dimension.
@inline(__always)
private func packKernel<Lane: ProductLane>(_ lane: Lane.Type, _ p: Packing) {
  let extent = p.side == .left ? leftLines : rightLines
  let elementBytes = laneBytes / Lane.elements
  let stride = p.stride * elementBytes
  if p.innerIsContiguous {
    for first in Swift.stride(from: 0, to: p.lines, by: extent) {
      packTransposed(
        lane, p.source + first * stride, stride, min(extent, p.lines - first), extent, p.inner,
        p.packed + first / extent * p.stripBytes)
    }
    return
  }
  if p.side == .left {
    packRows(lane, p, stride, extent: leftLines)
  } else {
    packRows(lane, p, stride, extent: rightLines)
  }
}

/// Lines side by side in memory. A strip gets a few lanes at a time: strips are so far apart that the caches would lose
/// what is half written, and the rows, too, which all strips read.
/// - Parameter stride: bytes between inner elements.
@inline(__always)
private func packRows<Lane: ProductLane>(_ lane: Lane.Type, _ p: Packing, _ stride: Int, extent: Int) {
  let elementBytes = laneBytes / Lane.elements
  let lanes = (p.inner + Lane.elements - 1) / Lane.elements
  let chunk = 4
  for start in Swift.stride(from: 0, to: lanes, by: chunk) {
    for first in Swift.stride(from: 0, to: p.lines, by: extent) {
      let lines = min(extent, p.lines - first)
      var source = p.source + start * Lane.elements * stride + first * elementBytes
      var target = p.packed + first / extent * p.stripBytes + start * extent * laneBytes
      for index in start..<min(start + chunk, lanes) {
        let elements = min(Lane.elements, p.inner - index * Lane.elements)
        if lines == extent, elements == Lane.elements {
          var line = 0
          while line + width <= extent {
            Lane.pack16(lines: source + line * elementBytes, stride, target + line * laneBytes)
            line += width
          }
          if line < extent { Lane.pack8(lines: source + line * elementBytes, stride, target + line * laneBytes) }
        } else {
          for line in 0..<extent {
            let bits = line < lines ? Lane.pack(line: source + line * elementBytes, stride, elements) : 0
            target.storeBytes(of: bits, toByteOffset: line * laneBytes, as: UInt32.self)
          }
        }
        source += Lane.elements * stride
        target += extent * laneBytes
      }
    }
  }
}

/// Lines of contiguous inner elements, sixteen lanes by sixteen (or by eight) through registers.
/// - Parameter stride: bytes between lines.
@inline(__always)
private func packTransposed<Lane: ProductLane>(
  _ lane: Lane.Type, _ source: Bytes, _ stride: Int, _ lines: Int, _ extent: Int, _ inner: Int, _ packed: MutableBytes
) {
  let elementBytes = laneBytes / Lane.elements
  let step = extent * laneBytes
  var index = 0
  if lines == extent {
    while (index + 16) * Lane.elements <= inner {
      let (columns, target) = (source + index * laneBytes, packed + index * step)
      var line = 0
      while line + 16 <= extent {
        vector_transpose16(columns + line * stride, stride, target + line * laneBytes, step)
        line += 16
      }
      if line < extent { vector_transpose8(columns + line * stride, stride, target + line * laneBytes, step) }
      index += 16
    }
  }
  while index * Lane.elements < inner {
    let elements = min(Lane.elements, inner - index * Lane.elements)
    for line in 0..<extent {
      let bits =
        line < lines ? Lane.pack(line: source + line * stride + index * laneBytes, elementBytes, elements) : 0
      packed.storeBytes(of: bits, toByteOffset: index * step + line * laneBytes, as: UInt32.self)
    }
    index += 1
  }
}

@inline(__always)
private func multiplyKernel<Lane: ProductLane>(_ lane: Lane.Type, _ p: PackedProduct) {
  p.forEachBlock(leftLines: leftLines, rightLines: rightLines) { multiplyBlock(lane, p, $0) }
}

@inline(__always)
private func multiplyBlock<Lane: ProductLane>(_ lane: Lane.Type, _ p: PackedProduct, _ block: ProductBlock) {
  if block.rows == leftLines, block.columns % width == 0 {
    let stride = p.cStride * p.cBytes
    if p.cIsBFloat16 {
      multiplyStrips(lane, p, block, block.initial, p.initialStride, BFloat16.self, block.c, stride)
    } else {
      multiplyStrips(lane, p, block, block.initial, p.initialStride, Float.self, block.c, stride)
    }
    return
  }
  p.throughScratch(block, lines: rightLines) {
    multiplyStrips(lane, p, block, $0, rightLines, Float.self, MutableBytes($1), rightLines * Float.sizeBytes)
  } narrow: { sums in
    // Each is read before anything is written over it.
    for index in 0..<leftLines * rightLines {
      BFloat16.store(one: sums[index], MutableBytes(sums) + index * BFloat16.sizeBytes)
    }
  }
}

/// Sums of one row of c in registers.
private protocol RowSums {
  associatedtype Lane: ProductLane
  static var vectors: Int { get }
  init(_ initial: Floats?, _ offset: Int)
  /// Adds the product of a lane of the left operand and the row of the right one at `right`.
  mutating func add(_ left: Float, _ right: Floats)
  func store<Result: ComputeElement>(_ type: Result.Type, _ target: MutableBytes)
}

/// A vector of a row of c.
private struct OneVector<Lane: ProductLane>: RowSums {
  @inline(__always) static var vectors: Int { 1 }
  var sums: Vector

  @inline(__always)
  init(_ initial: Floats?, _ offset: Int) { sums = initial.map { Float.load($0 + offset) } ?? .zero }

  @inline(__always)
  mutating func add(_ left: Float, _ right: Floats) { sums = Lane.add(left, Float.load(right), to: sums) }

  @inline(__always)
  func store<Result: ComputeElement>(_ type: Result.Type, _ target: MutableBytes) { Result.store(sums, target) }
}

/// Vectors of a row of c, side by side.
private struct Vectors<Rest: RowSums>: RowSums {
  typealias Lane = Rest.Lane
  @inline(__always) static var vectors: Int { 1 + Rest.vectors }
  var first: OneVector<Rest.Lane>
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
  func store<Result: ComputeElement>(_ type: Result.Type, _ target: MutableBytes) {
    first.store(type, target)
    rest.store(type, target + width * Result.sizeBytes)
  }
}

/// Eight rows, packed side by side or as they lie in memory.
private struct LeftStrip {
  let first: Bytes
  /// Bytes from row to row, and from one lane of the inner dimension to the next.
  let row, inner: Int
}

/// Picks the loop: with packed rows all distances are constants, and a strip that the matrix ends in has fewer vectors.
/// - Parameter stride: bytes between rows of `c`.
@inline(__always)
private func multiplyStrips<Lane: ProductLane, Result: ComputeElement>(
  _ lane: Lane.Type, _ p: PackedProduct, _ block: ProductBlock, _ initial: Floats?, _ initialStride: Int,
  _ type: Result.Type, _ c: MutableBytes, _ stride: Int
) {
  func lanes(_ elements: Int) -> Int { (elements + Lane.elements - 1) / Lane.elements }
  let stripLanes = lanes(p.inner)
  let first = block.inner.lowerBound / Lane.elements
  let count = lanes(block.inner.upperBound) - first
  let right = p.right.assumingMemoryBound(to: Float.self) + (block.rightStrip * stripLanes + first) * rightLines
  @inline(__always)
  func multiply<Row: RowSums>(_ rows: Row.Type) {
    if let elements = p.leftStride {
      let row = elements * laneBytes / Lane.elements
      let start = block.leftStrip * leftLines * row + first * laneBytes
      let left = LeftStrip(first: p.left + start, row: row, inner: laneBytes)
      multiplyStrips(rows, left, right, count, initial, initialStride, type, c, stride)
    } else {
      let left = LeftStrip(
        first: p.left + (block.leftStrip * stripLanes + first) * leftLines * laneBytes, row: laneBytes,
        inner: leftLines * laneBytes)
      multiplyStrips(rows, left, right, count, initial, initialStride, type, c, stride)
    }
  }
  if block.columns > 2 * width {
    multiply(Vectors<Vectors<OneVector<Lane>>>.self)
  } else if block.columns > width {
    multiply(Vectors<OneVector<Lane>>.self)
  } else {
    multiply(OneVector<Lane>.self)
  }
}

/// c[8, vectors of a row] = initial + left strip x right strip, all sums in registers.
@inline(__always)
private func multiplyStrips<Row: RowSums, Result: ComputeElement>(
  _ rows: Row.Type, _ left: LeftStrip, _ right: Floats, _ lanes: Int, _ initial: Floats?, _ initialStride: Int,
  _ type: Result.Type, _ c: MutableBytes, _ stride: Int
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
  for _ in 0..<lanes {
    // The strip is longer than the first-level cache: ask for what comes eight lanes later.
    for vector in 0..<Row.vectors { vector_prefetch(b + 8 * rightLines + vector * width) }
    row0.add(Float.load(one: upper), b)
    row1.add(Float.load(one: upper + left.row), b)
    row2.add(Float.load(one: upper + 2 * left.row), b)
    row3.add(Float.load(one: upper + 3 * left.row), b)
    row4.add(Float.load(one: lower), b)
    row5.add(Float.load(one: lower + left.row), b)
    row6.add(Float.load(one: lower + 2 * left.row), b)
    row7.add(Float.load(one: lower + 3 * left.row), b)
    upper += left.inner
    lower += left.inner
    b += rightLines
  }
  row0.store(type, c)
  row1.store(type, c + stride)
  row2.store(type, c + 2 * stride)
  row3.store(type, c + 3 * stride)
  row4.store(type, c + 4 * stride)
  row5.store(type, c + 5 * stride)
  row6.store(type, c + 6 * stride)
  row7.store(type, c + 7 * stride)
}
