import KernelInterface

// Products of bfloat16 operands on tile registers. The smaller operand is packed by all threads and read by all; the
// larger is cut into blocks, and each task packs a block into its second-level cache and multiplies it with the whole
// other operand. Every element is summed in the order of the summed dimension, however the work is cut.

extension CPUDevice {
  /// Elements of the summed dimension that are packed at a time; a longer sum continues from what is in c.
  private static var innerLimit: Int { 4_096 }
  /// Packed bytes of a block: a part of the second-level cache, which also sees the other operand and c go by.
  private static var blockBytes: Int { 512 << 10 }
  /// Blocks to share out, at least, where the operand is large enough.
  private static var wantedBlocks: Int { 16 }

  func multiplyOnTiles(
    _ shape: MatmulShape, _ tiles: TileKernels, _ a: Bytes, _ b: Bytes, _ base: Floats?, _ c: MutableBytes
  ) {
    if shape.inner <= Self.innerLimit { return multiplyChunk(shape, tiles, a, b, base, c) }
    // Partial sums stay float32.
    var part = shape
    var sums = c
    if shape.resultType == .bfloat16 {
      sums = widened.reserve(shape.rows * shape.columns * 4)
      part.resultType = .float32
      part.cStride = shape.columns
    }
    let size = shape.operandType.sizeBytes
    for first in stride(from: 0, to: shape.inner, by: Self.innerLimit) {
      part.inner = min(Self.innerLimit, shape.inner - first)
      multiplyChunk(
        part, tiles, a + first * (shape.transposeA ? shape.aStride : 1) * size,
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
    _ shape: MatmulShape, _ tiles: TileKernels, _ a: Bytes, _ b: Bytes, _ base: Floats?, _ c: MutableBytes
  ) {
    let extent = TileKernels.extent
    let own: TileSide = shape.rows >= shape.columns ? .left : .right
    let shared: TileSide = own == .left ? .right : .left
    let ownLines = own == .left ? shape.rows : shape.columns
    let stripBytes = TileKernels.stripBytes(inner: shape.inner)
    // Whole rows that are contiguous are tiles where they lie.
    let leftLies = !shape.transposeA && shape.rows % extent == 0 && shape.inner % extent == 0
    let leftStride = leftLies ? shape.aStride : nil

    var operand = a
    if shared == .right || !leftLies {
      let sharedLines = own == .left ? shape.columns : shape.rows
      let memory = packed.reserve(TileKernels.packedBytes(lines: sharedLines, inner: shape.inner))
      pack(shape.packing(shared, shared == .left ? a : b, into: memory), tiles)
      operand = Bytes(memory)
    }

    let wanted = (ownLines / Self.wantedBlocks + extent - 1) / extent
    let strips = max(1, min(Self.blockBytes / stripBytes, max(wanted, 2)))
    let cut = TileCut(total: ownLines, size: strips * extent)
    let (operandSize, resultSize) = (shape.operandType.sizeBytes, shape.resultType.sizeBytes)
    pool.parallelFor(cut.count) { index, slot in
      let range = cut.range(index)
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
        let memory = lanes[slot].productScratch.reserve(strips * stripBytes)
        tiles.pack(part.packing(own, source, into: memory))
        block = Bytes(memory)
      }
      tiles.multiply(
        TileProduct(
          left: own == .left ? block : operand, leftStride: leftStride, right: own == .left ? operand : block,
          rows: part.rows, columns: part.columns, inner: part.inner, c: c + first * resultSize,
          cIsBFloat16: shape.resultType == .bfloat16, cStride: shape.cStride, initial: base.map { $0 + first },
          initialStride: shape.cStride, outer: shared))
    }
  }

  /// Packs a whole operand on all threads, each task a stretch of memory.
  private func pack(_ whole: TilePacking, _ tiles: TileKernels) {
    let taskBytes = 64 << 10
    let extent = TileKernels.extent
    let rows = whole.innerIsContiguous ? whole.lines : whole.inner
    let columns = whole.innerIsContiguous ? whole.inner : whole.lines
    let cut = TileCut(total: rows, size: max(1, taskBytes / (extent * max(columns, 1) * 2)) * extent)
    pool.parallelFor(cut.count) { index, _ in
      let range = cut.range(index)
      var part = whole
      part.source = whole.source + range.lowerBound * whole.stride * 2
      if whole.innerIsContiguous {
        part.lines = range.count
        part.packed = whole.packed + range.lowerBound / extent * whole.stripBytes
      } else {
        part.inner = range.count
        part.packed = whole.packed + range.lowerBound / extent * TileKernels.stepBytes
      }
      tiles.pack(part)
    }
  }
}
