import Glibc
import KernelInterface

extension CPUDevice {
  public func matmul(
    _ a: Tensor, transposed transposeA: Bool, _ b: Tensor, transposed transposeB: Bool, adding base: Tensor?,
    into c: Tensor
  ) {
    let (aRows, aColumns) = (a.shape[0], a.rowCount)
    let (bRows, bColumns) = (b.shape[0], b.rowCount)
    let shape = MatmulShape(
      rows: transposeA ? aColumns : aRows, columns: transposeB ? bRows : bColumns,
      inner: transposeA ? aRows : aColumns, operandType: a.type, resultType: c.type,
      aStride: aColumns, bStride: bColumns, cStride: transposeB ? bRows : bColumns, transposeA: transposeA,
      transposeB: transposeB)
    precondition(
      (transposeB ? bColumns : bRows) == shape.inner && c.count == shape.rows * shape.columns && a.type == b.type,
      "product of \(a.type) \(a.shape)\(transposeA ? "^T" : "") and \(b.type) \(b.shape)\(transposeB ? "^T" : "") into \(c.shape)"
    )
    precondition(
      base.map { $0.count == c.count && $0.type == .float32 && c.type == .float32 } ?? true,
      "a product is added to float32 of its own shape")
    if c.count == 0 { return }
    if shape.inner == 0 {
      if let base { copy(base, to: c) } else { fill(c, with: 0) }
      return
    }
    if a.type == .bfloat16, !multipliesBFloat16 {
      return multiplyWidened(shape, a, b, base, c)
    }
    multiply(shape, address(a), address(b), base.map { Floats(floats(at: $0)) }, address(c))
  }

  /// The product of dense operands by tiles of c, added to `base` (laid out as c) where there is one.
  func multiply(_ whole: MatmulShape, _ a: Bytes, _ b: Bytes, _ base: Floats?, _ c: MutableBytes) {
    var shape = whole
    shape.accumulate = base != nil
    if let kernels = own[shape.operandType] { return multiplyPacked(shape, kernels, a, b, base, c) }
    let plan: MatmulPlan
    do throws(DeviceError) { plan = try products.plan(shape) } catch { return record(error) }
    let (operandBytes, resultBytes) = (shape.operandType.sizeBytes, shape.resultType.sizeBytes)
    let rowStep = (shape.transposeA ? 1 : shape.aStride) * operandBytes
    let columnStep = (shape.transposeB ? shape.bStride : 1) * operandBytes
    let rowTiles = plan.rowTiles.count
    // Neighbours in time share columns of b, which are most often a weight's.
    parallel(plan.tileCount) { index, lane in
      let (row, column) = (index % rowTiles, index / rowTiles)
      let (firstRow, firstColumn) = (row * plan.rowTiles.size, column * plan.columnTiles.size)
      let primitive = plan.primitive(row: row, column: column)
      let offset = firstRow * shape.cStride + firstColumn
      let target = c + offset * resultBytes
      if let base, Bytes(base) != Bytes(c) {
        for row in 0..<primitive.shape.rows {
          memcpy(target + row * shape.cStride * 4, base + offset + row * shape.cStride, primitive.shape.columns * 4)
        }
      }
      lane.multiply(primitive, a + firstRow * rowStep, b + firstColumn * columnStep, target)
    }
  }

  /// bfloat16 operands that neither our own kernels nor this processor's oneDNN multiply: the same product in float32.
  private func multiplyWidened(_ shape: MatmulShape, _ a: Tensor, _ b: Tensor, _ base: Tensor?, _ c: Tensor) {
    var layout = ScratchLayout()
    let (aOffset, bOffset) = (layout.add(floats: a.count), layout.add(floats: b.count))
    let cOffset = layout.add(floats: c.type == .float32 ? 0 : c.count)
    let memory = widened.reserve(layout.totalBytes)
    convert(address(a), .bfloat16, to: memory + aOffset, .float32, count: a.count)
    convert(address(b), .bfloat16, to: memory + bOffset, .float32, count: b.count)
    var wide = shape
    wide.operandType = .float32
    wide.resultType = .float32
    let target = c.type == .float32 ? address(c) : memory + cOffset
    multiply(wide, memory + aOffset, memory + bOffset, base.map { Floats(floats(at: $0)) }, target)
    if c.type != .float32 { convert(target, .float32, to: address(c), c.type, count: c.count) }
  }

  /// Speed of a float32 or bfloat16 product of 1,024 cubed on `threads` threads, in 10^9 floating-point operations
  /// per second: the best of some 100 ms of trials.
  public static func measureGigaflops(threads: Int, type: ElementType = .bfloat16) throws(DeviceError) -> Double {
    let size = 1_024
    let device = try CPUDevice(threads: threads)
    let a = try device.allocate(type, [size, size])
    let b = try device.allocate(type, [size, size])
    let c = try device.allocate(.float32, [size, size])
    let clock = ContinuousClock()
    let start = clock.now
    var best = 0.0
    var trials = 0
    while trials < 3 || clock.now - start < .milliseconds(100) {
      let elapsed = clock.measure {
        device.matmul(a, transposed: false, b, transposed: true, adding: nil, into: c)
      }
      try device.wait()
      best = max(best, 2 * Double(size * size * size) / (elapsed / .seconds(1)) / 1e9)
      trials += 1
    }
    return best
  }
}
