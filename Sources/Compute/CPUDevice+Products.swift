import KernelInterface

// Products by kernels of our own. The smaller operand is packed by all threads and read by all; the larger is cut into
// blocks, and each task packs a block into its second-level cache and multiplies it with the whole other operand. Every
// element is summed in the order of the inner dimension, however the work is cut.

extension CPUDevice {
  /// Bytes of a line that are packed at a time; a longer sum continues from what is in c.
  private static var innerBytes: Int { 8 << 10 }
  /// Blocks to share out, at least, where the operand is large enough: no thread should wait long for the last.
  private var wantedBlocks: Int { max(8, 4 * pool.threads) }

  func multiplyPacked(
    _ shape: MatmulShape, _ kernels: ProductKernels, _ a: Bytes, _ b: Bytes, _ base: Floats?, _ c: MutableBytes
  ) {
    let innerLimit = Self.innerBytes / kernels.packedElementBytes
    if shape.inner <= innerLimit { return multiplyChunk(shape, kernels, a, b, base, c) }
    // Partial sums stay float32.
    var part = shape
    var sums = c
    if shape.resultType == .bfloat16 {
      sums = widened.reserve(shape.rows * shape.columns * 4)
      part.resultType = .float32
      part.cStride = shape.columns
    }
    let size = kernels.elementBytes
    for first in stride(from: 0, to: shape.inner, by: innerLimit) {
      part.inner = min(innerLimit, shape.inner - first)
      multiplyChunk(
        part, kernels, a + first * (shape.transposeA ? shape.aStride : 1) * size,
        b + first * (shape.transposeB ? 1 : shape.bStride) * size,
        first == 0 ? base : Floats(sums.assumingMemoryBound(to: Float.self)), sums)
    }
    if shape.resultType == .bfloat16 {
      forEachBlock(of: shape.rows, size: blockRows(shape.columns)) { range in
        for row in range {
          convertRun(
            sums + row * shape.columns * 4, .float32, to: c + row * shape.cStride * 2, .bfloat16, count: shape.columns)
        }
      }
    }
  }

  private func multiplyChunk(
    _ shape: MatmulShape, _ kernels: ProductKernels, _ a: Bytes, _ b: Bytes, _ base: Floats?, _ c: MutableBytes
  ) {
    let own: OperandSide = shape.rows >= shape.columns ? .left : .right
    let shared: OperandSide = own == .left ? .right : .left
    let (ownLines, sharedLines) = own == .left ? (shape.rows, shape.columns) : (shape.columns, shape.rows)
    let leftLies = shape.leftLies(kernels)

    var operand = a
    if shared == .right || !leftLies {
      let memory = packed.reserve(kernels.packedBytes(shared, lines: sharedLines, inner: shape.inner))
      pack(shape.packing(shared, shared == .left ? a : b, into: memory, kernels, lanes[0].blockScratch), kernels)
      operand = Bytes(memory)
    }

    let (extent, stripBytes) = (kernels.lines(own), kernels.stripBytes(own, inner: shape.inner))
    let wanted = (ownLines / wantedBlocks + extent - 1) / extent
    let strips = max(1, min(kernels.blockBytes / stripBytes, max(wanted, 64 / extent)))
    let cut = TileCut(total: ownLines, size: strips * extent)
    let (operandSize, resultSize) = (kernels.elementBytes, shape.resultType.sizeBytes)
    pool.parallelFor(cut.count) { index, slot in
      let range = cut.range(index)
      let lane = lanes[slot]
      var part = shape
      let (source, first): (Bytes, Int)
      switch own {
      case .left:
        part.rows = range.count
        source = a + range.lowerBound * (shape.transposeA ? 1 : shape.aStride) * operandSize
        first = range.lowerBound * shape.cStride
      case .right:
        part.columns = range.count
        source = b + range.lowerBound * (shape.transposeB ? shape.bStride : 1) * operandSize
        first = range.lowerBound
      }
      var block = source
      if own == .right || !leftLies {
        let memory = lane.productScratch.reserve(strips * stripBytes)
        kernels.pack(part.packing(own, source, into: memory, kernels, lane.blockScratch))
        block = Bytes(memory)
      }
      kernels.multiply(
        PackedProduct(
          left: own == .left ? block : operand, leftStride: leftLies ? shape.aStride : nil,
          right: own == .left ? operand : block, rows: part.rows, columns: part.columns, inner: part.inner,
          c: c + first * resultSize, cIsBFloat16: shape.resultType == .bfloat16, cStride: shape.cStride,
          initial: base.map { $0 + first }, initialStride: shape.cStride, outer: shared, scratch: lane.blockScratch))
    }
  }

  /// Packs a whole operand on all threads, each task a stretch of memory.
  private func pack(_ whole: Packing, _ kernels: ProductKernels) {
    let taskBytes = 64 << 10
    // Lines or inner elements, whichever lie further apart in memory.
    let (rows, columns) =
      whole.innerIsContiguous ? (whole.lines, whole.inner) : (whole.inner, whole.lines)
    let unit = whole.innerIsContiguous ? kernels.lines(whole.side) : kernels.innerStep
    let wanted = taskBytes / (max(columns, 1) * kernels.elementBytes)
    let cut = TileCut(total: rows, size: max(1, wanted / unit) * unit)
    pool.parallelFor(cut.count) { index, slot in
      let range = cut.range(index)
      var part = whole
      part.scratch = lanes[slot].blockScratch
      part.source = whole.source + range.lowerBound * whole.stride * kernels.elementBytes
      if whole.innerIsContiguous {
        part.lines = range.count
        part.packed = whole.packed + range.lowerBound / unit * whole.stripBytes
      } else {
        part.inner = range.count
        part.packed = whole.packed + range.lowerBound * kernels.lines(whole.side) * kernels.packedElementBytes
      }
      kernels.pack(part)
    }
  }
}
