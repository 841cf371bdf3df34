import CTiles
import KernelInterface

/// The tile kernels, for processors with AMX-BF16 whose operating system lets the process use it.
public let tileKernels = ProductKernels(
  leftLines: 32, rightLines: 32, innerStep: 32, elementBytes: 2, packedElementBytes: 2, blockBytes: 1 << 20,
  leftRowsLimit: 256, pack: { packKernel($0) }, multiply: { multiplyKernel($0) })

/// Lines of a strip, and inner elements of a step.
private var extent: Int { 32 }
/// Bytes of one packed step of one strip: two tiles.
private var stepBytes: Int { 2_048 }

/// Goes through memory in the order in which it lies: strip by strip where the summed dimension is contiguous, else step
/// by step.
private func packKernel(_ p: Packing) {
  let strips = (p.lines + extent - 1) / extent
  let steps = (p.inner + extent - 1) / extent
  if p.innerIsContiguous {
    for strip in 0..<strips { for step in 0..<steps { packBlock(p, strip, step) } }
  } else {
    for step in 0..<steps { for strip in 0..<strips { packBlock(p, strip, step) } }
  }
}

/// One step of one strip.
@inline(__always)
private func packBlock(_ p: Packing, _ strip: Int, _ step: Int) {
  let line = p.stride * 2
  let (lines, inner) = (min(extent, p.lines - strip * extent), min(extent, p.inner - step * extent))
  let packed = p.packed + strip * p.stripBytes + step * stepBytes
  let (row, column) = p.innerIsContiguous ? (strip, step) : (step, strip)
  let source = p.source + row * extent * line + column * extent * 2
  if lines == extent, inner == extent { return packBlock(p.side, p.innerIsContiguous, source, line, packed) }
  // The matrix ends inside the block.
  let edge = p.scratch
  edge.initializeMemory(as: UInt8.self, repeating: 0, count: stepBytes)
  let (rows, columns) = p.innerIsContiguous ? (lines, inner) : (inner, lines)
  for row in 0..<rows {
    (edge + row * extent * 2).copyMemory(from: source + row * line, byteCount: columns * 2)
  }
  packBlock(p.side, p.innerIsContiguous, Bytes(edge), extent * 2, packed)
}

@inline(__always)
private func packBlock(
  _ side: OperandSide, _ innerIsContiguous: Bool, _ source: Bytes, _ line: Int, _ packed: MutableBytes
) {
  switch (side, innerIsContiguous) {
  case (.left, true): tiles_pack_left(source, line, packed)
  case (.left, false): tiles_pack_left_transposed(source, line, packed)
  case (.right, true): tiles_pack_right_transposed(source, line, packed)
  case (.right, false): tiles_pack_right(source, line, packed)
  }
}

private func multiplyKernel(_ p: PackedProduct) {
  tiles_configure()
  p.forEachBlock(leftLines: extent, rightLines: extent) { multiplyBlock(p, $0) }
  tiles_release()
}

@inline(__always)
private func multiplyBlock(_ p: PackedProduct, _ block: ProductBlock) {
  let steps = (p.inner + extent - 1) / extent
  let right = p.right + block.rightStrip * steps * stepBytes
  let (line, step, second, left): (Int, Int, Int, Bytes)
  if let stride = p.leftStride {
    (line, step, second) = (stride * 2, extent * 2, stride * 32)
    left = p.left + block.leftStrip * extent * stride * 2
  } else {
    (line, step, second) = (64, stepBytes, 1_024)
    left = p.left + block.leftStrip * steps * stepBytes
  }
  let whole = block.rows == extent && block.columns == extent
  // What is added to is read first: there it is the next block's lines that are asked for.
  let inPlace = block.initial.map { Bytes($0) == Bytes(block.c) } ?? false
  func nextBlock(_ stride: Int) -> Int { p.outer == .left ? extent : extent * stride }
  let written = tiles_lines(
    first: whole ? Bytes(block.c) + (inPlace ? nextBlock(p.cStride) * 4 : 0) : nil, line: p.cStride * p.cBytes,
    bytes: Int32(extent * p.cBytes))
  let read = tiles_lines(
    first: inPlace ? nil : block.initial.map { Bytes($0 + nextBlock(p.initialStride)) }, line: p.initialStride * 4,
    bytes: 128)
  /// Into lines of `stride` elements.
  @inline(__always)
  func multiply(_ initial: Floats?, _ initialStride: Int, _ c: MutableFloats, _ stride: Int) {
    tiles_multiply(left, line, step, second, right, steps, initial, initialStride * 4, c, stride * 4, written, read)
  }
  if whole, !p.cIsBFloat16 {
    multiply(block.initial, p.initialStride, block.c.assumingMemoryBound(to: Float.self), p.cStride)
  } else if whole {
    let sums = p.scratch.assumingMemoryBound(to: Float.self)
    multiply(block.initial, p.initialStride, sums, extent)
    tiles_narrow(sums, block.c, p.cStride * 2)
  } else {
    // Lines become half as long, so none is overwritten before it is read.
    p.throughScratch(block, lines: extent) {
      multiply($0, extent, $1, extent)
    } narrow: {
      tiles_narrow($0, $0, extent * 2)
    }
  }
}
