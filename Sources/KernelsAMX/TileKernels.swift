import CTiles
import KernelInterface

/// The tile kernels, for processors with AMX-BF16 whose operating system lets the process use it.
public let tileKernels = ProductKernels(
  leftLines: 32, rightLines: 32, innerStep: 32, elementBytes: 2, blockBytes: 1 << 20, leftRowsLimit: 256,
  pack: { packKernel($0) }, multiply: { multiplyKernel($0) })

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
  let leftStrips = (p.rows + extent - 1) / extent
  let rightStrips = (p.columns + extent - 1) / extent
  let block = p.scratch.assumingMemoryBound(to: Float.self)
  tiles_configure()
  switch p.outer {
  case .left:
    for left in 0..<leftStrips { for right in 0..<rightStrips { multiplyBlock(p, left, right, block) } }
  case .right:
    for right in 0..<rightStrips { for left in 0..<leftStrips { multiplyBlock(p, left, right, block) } }
  }
  tiles_release()
}

@inline(__always)
private func multiplyBlock(_ p: PackedProduct, _ leftStrip: Int, _ rightStrip: Int, _ block: MutableFloats) {
  let steps = (p.inner + extent - 1) / extent
  let (firstRow, firstColumn) = (leftStrip * extent, rightStrip * extent)
  let (rows, columns) = (min(extent, p.rows - firstRow), min(extent, p.columns - firstColumn))
  let right = p.right + rightStrip * steps * stepBytes
  let (line, step, second, left): (Int, Int, Int, Bytes)
  if let stride = p.leftStride {
    (line, step, second, left) = (stride * 2, extent * 2, stride * 32, p.left + firstRow * stride * 2)
  } else {
    (line, step, second) = (64, stepBytes, 1_024)
    left = p.left + leftStrip * steps * stepBytes
  }
  let initial = p.initial.map { $0 + firstRow * p.initialStride + firstColumn }
  let size = p.cIsBFloat16 ? 2 : 4
  let target = p.c + (firstRow * p.cStride + firstColumn) * size
  let whole = rows == extent && columns == extent
  if whole, !p.cIsBFloat16 {
    tiles_multiply(
      left, line, step, second, right, steps, initial, p.initialStride * 4, target.assumingMemoryBound(to: Float.self),
      p.cStride * 4)
  } else if whole {
    tiles_multiply(left, line, step, second, right, steps, initial, p.initialStride * 4, block, extent * 4)
    tiles_narrow(block, target, p.cStride * 2)
  } else {
    // The matrix ends inside the block: through scratch, so that nothing beyond it is read or written.
    if let initial {
      for row in 0..<rows {
        for column in 0..<columns { block[row * extent + column] = initial[row * p.initialStride + column] }
      }
    }
    tiles_multiply(
      left, line, step, second, right, steps, initial == nil ? nil : UnsafePointer(block), extent * 4, block, extent * 4
    )
    for row in 0..<rows {
      let start = target + row * p.cStride * size
      for column in 0..<columns {
        let value = block[row * extent + column]
        if p.cIsBFloat16 {
          start.storeBytes(of: narrow(value), toByteOffset: column * 2, as: UInt16.self)
        } else {
          start.storeBytes(of: value, toByteOffset: column * 4, as: Float.self)
        }
      }
    }
  }
}

/// To nearest, ties to even; a NaN stays one. As the instruction behind `tiles_narrow`, subnormal numbers become zero.
private func narrow(_ value: Float) -> UInt16 {
  if value.isSubnormal { return value.sign == .minus ? 0x8000 : 0 }
  let bits = value.bitPattern
  let rounded = value.isNaN ? bits | 0x0040_0000 : bits &+ 0x7FFF &+ ((bits >> 16) & 1)
  return UInt16(truncatingIfNeeded: rounded >> 16)
}
