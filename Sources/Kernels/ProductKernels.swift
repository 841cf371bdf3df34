import CVector
import KernelInterface

/// What the kernels multiply lane by lane: as much of the inner dimension of an operand as 32 bits hold. The strips are
/// three vectors of sums wide and so many rows high that all sums of a block stay in registers.
protocol ProductLane: SendableMetatype {
  /// As many sums as a register holds.
  associatedtype Sums: SIMD & BitwiseCopyable where Sums.Scalar == Float
  /// Eight or four.
  static var leftLines: Int { get }
  /// How many lanes before they are used the lines of a right strip are asked for, or 0.
  static var lanesAhead: Int { get }
  /// Elements of the inner dimension in a lane, and bytes of one in memory.
  static var elements: Int { get }
  static var elementBytes: Int { get }
  /// sums + left x right, whose lanes are made by the packing (or are a left operand's memory); only bits pass as `Float`.
  static func add(_ left: Float, _ right: Sums, to sums: Sums) -> Sums
  static func store<Result: ComputeElement>(_ sums: Sums, _ type: Result.Type, _ target: MutableBytes)
  /// One lane of a line whose inner elements are `next` bytes apart; the matrix has `elements` of them.
  static func pack(line: Bytes, _ next: Int, _ elements: Int) -> UInt32
  /// The same for sixteen (or eight) lines side by side in memory, of whole lanes.
  static func pack16(lines: Bytes, _ next: Int, _ target: MutableBytes)
  static func pack8(lines: Bytes, _ next: Int, _ target: MutableBytes)
}

extension ProductLane {
  @inline(__always) static var rightLines: Int { 3 * Sums.scalarCount }
  /// Bytes of a lane in memory; packed it has `packedLaneBytes`.
  @inline(__always) static var bytes: Int { elements * elementBytes }

  @inline(__always)
  static func pack4(lines: Bytes, _ next: Int, _ target: MutableBytes) {
    for line in 0..<4 {
      let bits = pack(line: lines + line * elementBytes, next, elements)
      target.storeBytes(of: bits, toByteOffset: line * packedLaneBytes, as: UInt32.self)
    }
  }
}

extension ProductLane where Sums == Vector {
  @inline(__always)
  static func store<Result: ComputeElement>(_ sums: Vector, _ type: Result.Type, _ target: MutableBytes) {
    Result.store(sums, target)
  }
}

/// - Parameters:
///   - blockBytes: of the second-level cache, for packed strips.
///   - leftRowsLimit: see ``ProductKernels/leftRowsLimit``.
@inline(__always)
func stripKernels<Lane: ProductLane>(_ lane: Lane.Type, blockBytes: Int, leftRowsLimit: Int) -> ProductKernels {
  ProductKernels(
    leftLines: Lane.leftLines, rightLines: Lane.rightLines, innerStep: Lane.elements, elementBytes: Lane.elementBytes,
    packedElementBytes: packedLaneBytes / Lane.elements, blockBytes: blockBytes, leftRowsLimit: leftRowsLimit,
    pack: { packKernel(Lane.self, $0) }, multiply: { multiplyKernel(Lane.self, $0) })
}

private var packedLaneBytes: Int { 4 }

/// A packed strip holds its lines side by side for each lane of the inner dimension.
@inline(__always)
private func packKernel<Lane: ProductLane>(_ lane: Lane.Type, _ p: Packing) {
  let extent = p.side == .left ? Lane.leftLines : Lane.rightLines
  let stride = p.stride * Lane.elementBytes
  if p.innerIsContiguous {
    for first in Swift.stride(from: 0, to: p.lines, by: extent) {
      packTransposed(
        lane, p.source + first * stride, stride, min(extent, p.lines - first), extent, p.inner,
        p.packed + first / extent * p.stripBytes)
    }
    return
  }
  if p.side == .left {
    packRows(lane, p, stride, extent: Lane.leftLines)
  } else {
    packRows(lane, p, stride, extent: Lane.rightLines)
  }
}

/// Calls the first of the three for each sixteen of `extent` lines, the others for what is left.
@inline(__always)
private func forEachGroup(
  of extent: Int, sixteen: (_ line: Int) -> Void, eight: (_ line: Int) -> Void, four: (_ line: Int) -> Void
) {
  var line = 0
  while line + 16 <= extent {
    sixteen(line)
    line += 16
  }
  if line + 8 <= extent {
    eight(line)
    line += 8
  }
  if line < extent { four(line) }
}

/// Lines side by side in memory. A strip gets a few lanes at a time: strips are so far apart that the caches would lose
/// what is half written, and the rows, too, which all strips read.
/// - Parameter stride: bytes between inner elements.
@inline(__always)
private func packRows<Lane: ProductLane>(_ lane: Lane.Type, _ p: Packing, _ stride: Int, extent: Int) {
  let lanes = (p.inner + Lane.elements - 1) / Lane.elements
  let chunk = 4
  for start in Swift.stride(from: 0, to: lanes, by: chunk) {
    for first in Swift.stride(from: 0, to: p.lines, by: extent) {
      let lines = min(extent, p.lines - first)
      var source = p.source + start * Lane.elements * stride + first * Lane.elementBytes
      var target = p.packed + first / extent * p.stripBytes + start * extent * packedLaneBytes
      for index in start..<min(start + chunk, lanes) {
        let elements = min(Lane.elements, p.inner - index * Lane.elements)
        if lines == extent, elements == Lane.elements {
          forEachGroup(of: extent) {
            Lane.pack16(lines: source + $0 * Lane.elementBytes, stride, target + $0 * packedLaneBytes)
          } eight: {
            Lane.pack8(lines: source + $0 * Lane.elementBytes, stride, target + $0 * packedLaneBytes)
          } four: {
            Lane.pack4(lines: source + $0 * Lane.elementBytes, stride, target + $0 * packedLaneBytes)
          }
        } else {
          for line in 0..<extent {
            let bits = line < lines ? Lane.pack(line: source + line * Lane.elementBytes, stride, elements) : 0
            target.storeBytes(of: bits, toByteOffset: line * packedLaneBytes, as: UInt32.self)
          }
        }
        source += Lane.elements * stride
        target += extent * packedLaneBytes
      }
    }
  }
}

/// Lines of contiguous inner elements, sixteen lanes of some lines at a time through registers.
/// - Parameter stride: bytes between lines.
@inline(__always)
private func packTransposed<Lane: ProductLane>(
  _ lane: Lane.Type, _ source: Bytes, _ stride: Int, _ lines: Int, _ extent: Int, _ inner: Int, _ packed: MutableBytes
) {
  let step = extent * packedLaneBytes
  let halves: Int32 = Lane.bytes < packedLaneBytes ? 1 : 0
  var index = 0
  if lines == extent {
    while (index + 16) * Lane.elements <= inner {
      let (columns, target) = (source + index * Lane.bytes, packed + index * step)
      forEachGroup(of: extent) {
        vector_transpose16(columns + $0 * stride, stride, target + $0 * packedLaneBytes, step, halves)
      } eight: {
        vector_transpose8(columns + $0 * stride, stride, target + $0 * packedLaneBytes, step, halves)
      } four: {
        vector_transpose4(columns + $0 * stride, stride, target + $0 * packedLaneBytes, step, halves)
      }
      index += 16
    }
  }
  while index * Lane.elements < inner {
    let elements = min(Lane.elements, inner - index * Lane.elements)
    for line in 0..<extent {
      let bits =
        line < lines ? Lane.pack(line: source + line * stride + index * Lane.bytes, Lane.elementBytes, elements) : 0
      packed.storeBytes(of: bits, toByteOffset: index * step + line * packedLaneBytes, as: UInt32.self)
    }
    index += 1
  }
}

@inline(__always)
private func multiplyKernel<Lane: ProductLane>(_ lane: Lane.Type, _ p: PackedProduct) {
  p.forEachBlock(leftLines: Lane.leftLines, rightLines: Lane.rightLines) { multiplyBlock(lane, p, $0) }
}

@inline(__always)
private func multiplyBlock<Lane: ProductLane>(_ lane: Lane.Type, _ p: PackedProduct, _ block: ProductBlock) {
  if block.rows == Lane.leftLines, block.columns % Lane.Sums.scalarCount == 0 {
    let stride = p.cStride * p.cBytes
    if p.cIsBFloat16 {
      multiplyStrips(lane, p, block, block.initial, p.initialStride, BFloat16.self, block.c, stride)
    } else {
      multiplyStrips(lane, p, block, block.initial, p.initialStride, Float.self, block.c, stride)
    }
    return
  }
  p.throughScratch(block, lines: Lane.rightLines) {
    multiplyStrips(lane, p, block, $0, Lane.rightLines, Float.self, MutableBytes($1), Lane.rightLines * Float.sizeBytes)
  } narrow: { sums in
    // Each is read before anything is written over it.
    for index in 0..<Lane.leftLines * Lane.rightLines {
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
  var sums: Lane.Sums

  @inline(__always)
  init(_ initial: Floats?, _ offset: Int) { sums = initial.map { Self.load($0 + offset) } ?? .zero }

  @inline(__always)
  mutating func add(_ left: Float, _ right: Floats) { sums = Lane.add(left, Self.load(right), to: sums) }

  @inline(__always)
  func store<Result: ComputeElement>(_ type: Result.Type, _ target: MutableBytes) { Lane.store(sums, type, target) }

  @inline(__always)
  private static func load(_ address: Floats) -> Lane.Sums { Bytes(address).loadUnaligned(as: Lane.Sums.self) }
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
    rest = Rest(initial, offset + Lane.Sums.scalarCount)
  }
  @inline(__always)
  mutating func add(_ left: Float, _ right: Floats) {
    first.add(left, right)
    rest.add(left, right + Lane.Sums.scalarCount)
  }
  @inline(__always)
  func store<Result: ComputeElement>(_ type: Result.Type, _ target: MutableBytes) {
    first.store(type, target)
    rest.store(type, target + Lane.Sums.scalarCount * Result.sizeBytes)
  }
}

/// The rows of a strip, packed side by side or as they lie in memory.
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
  let right = p.right.assumingMemoryBound(to: Float.self) + (block.rightStrip * stripLanes + first) * Lane.rightLines
  @inline(__always)
  func multiply<Row: RowSums>(_ rows: Row.Type, _ left: LeftStrip) {
    switch Lane.leftLines {
    case 8: multiplyEight(rows, left, right, count, initial, initialStride, type, c, stride)
    default: multiplyFour(rows, left, right, count, initial, initialStride, type, c, stride)
    }
  }
  @inline(__always)
  func multiply<Row: RowSums>(_ rows: Row.Type) {
    if let elements = p.leftStride {
      let row = elements * Lane.elementBytes
      let start = block.leftStrip * Lane.leftLines * row + first * packedLaneBytes
      multiply(rows, LeftStrip(first: p.left + start, row: row, inner: packedLaneBytes))
    } else {
      let start = (block.leftStrip * stripLanes + first) * Lane.leftLines * packedLaneBytes
      multiply(rows, LeftStrip(first: p.left + start, row: packedLaneBytes, inner: Lane.leftLines * packedLaneBytes))
    }
  }
  if block.columns > 2 * Lane.Sums.scalarCount {
    multiply(Vectors<Vectors<OneVector<Lane>>>.self)
  } else if block.columns > Lane.Sums.scalarCount {
    multiply(Vectors<OneVector<Lane>>.self)
  } else {
    multiply(OneVector<Lane>.self)
  }
}

/// Asks for what comes later of a right strip, which is longer than the first-level cache.
@inline(__always)
private func askAhead<Row: RowSums>(_ rows: Row.Type, _ right: Floats) {
  if Row.Lane.lanesAhead == 0 { return }
  for vector in 0..<Row.vectors {
    vector_prefetch(right + Row.Lane.lanesAhead * Row.Lane.rightLines + vector * Row.Lane.Sums.scalarCount)
  }
}

/// c[8, vectors of a row] = initial + left strip x right strip, all sums in registers.
@inline(__always)
private func multiplyEight<Row: RowSums, Result: ComputeElement>(
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
    askAhead(rows, b)
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
    b += Row.Lane.rightLines
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

/// c[4, vectors of a row] = initial + left strip x right strip, all sums in registers.
@inline(__always)
private func multiplyFour<Row: RowSums, Result: ComputeElement>(
  _ rows: Row.Type, _ left: LeftStrip, _ right: Floats, _ lanes: Int, _ initial: Floats?, _ initialStride: Int,
  _ type: Result.Type, _ c: MutableBytes, _ stride: Int
) {
  var row0 = Row(initial, 0)
  var row1 = Row(initial, initialStride)
  var row2 = Row(initial, 2 * initialStride)
  var row3 = Row(initial, 3 * initialStride)
  var (a, b) = (left.first, right)
  for _ in 0..<lanes {
    askAhead(rows, b)
    row0.add(Float.load(one: a), b)
    row1.add(Float.load(one: a + left.row), b)
    row2.add(Float.load(one: a + 2 * left.row), b)
    row3.add(Float.load(one: a + 3 * left.row), b)
    a += left.inner
    b += Row.Lane.rightLines
  }
  row0.store(type, c)
  row1.store(type, c + stride)
  row2.store(type, c + 2 * stride)
  row3.store(type, c + 3 * stride)
}
