import COneDNN
import KernelInterface

/// Strides and types of one matrix product; equal shapes share one compiled primitive.
struct MatmulShape: Hashable {
  var rows: Int
  var columns: Int
  var inner: Int
  var operandType: ElementType
  var resultType: ElementType
  /// Whether the product is added to c; `CPUDevice.multiply` sets it.
  var accumulate = false
  /// Elements between the rows of each matrix as it lies in memory.
  var aStride: Int
  var bStride: Int
  var cStride: Int
  var transposeA: Bool
  var transposeB: Bool
}

/// One matrix product of a fixed shape: compiled by oneDNN, or done by kernels of our own.
final class MatmulPrimitive {
  enum Body {
    case library(OpaquePointer, scratchBytes: Int)
    case own(ProductKernels)
  }
  let shape: MatmulShape
  fileprivate let body: Body

  fileprivate init(_ shape: MatmulShape, lanes: Int) throws(DeviceError) {
    self.shape = shape
    var description = onednn_matmul_shape()
    description.rows = Int64(shape.rows)
    description.columns = Int64(shape.columns)
    description.inner = Int64(shape.inner)
    description.a_row_stride = Int64(shape.transposeA ? 1 : shape.aStride)
    description.a_column_stride = Int64(shape.transposeA ? shape.aStride : 1)
    description.b_row_stride = Int64(shape.transposeB ? 1 : shape.bStride)
    description.b_column_stride = Int64(shape.transposeB ? shape.bStride : 1)
    description.c_row_stride = Int64(shape.cStride)
    description.operand_type = shape.operandType == .bfloat16 ? ONEDNN_BFLOAT16 : ONEDNN_FLOAT32
    description.result_type = shape.resultType == .bfloat16 ? ONEDNN_BFLOAT16 : ONEDNN_FLOAT32
    description.accumulate = shape.accumulate ? 1 : 0
    var handle: OpaquePointer?
    let code = onednn_matmul_create(&description, Int32(lanes), &handle)
    guard code == 0, let handle else {
      throw .library(operation: "oneDNN matrix product of \(shape)", code: code)
    }
    body = .library(handle, scratchBytes: onednn_matmul_scratch_bytes(handle))
  }

  fileprivate init(_ shape: MatmulShape, own: ProductKernels) {
    self.shape = shape
    body = .own(own)
  }

  deinit { if case .library(let handle, _) = body { onednn_matmul_destroy(handle) } }

  /// The library's name for the code it chose, for example "brg:avx512_core_amx_bf16".
  var implementation: String {
    switch body {
    case .library(let handle, _): String(cString: onednn_matmul_implementation(handle))
    case .own: "own"
    }
  }
}

/// What one thread of the pool has for itself: a oneDNN stream and scratch memory.
final class Lane {
  private let handle: OpaquePointer
  /// Of a matrix product: oneDNN's scratchpad, or packed operands.
  let productScratch: ScratchMemory
  /// Of the operation that makes products.
  let scratch: ScratchMemory
  /// Of the kernels of a product: one block.
  let blockScratch = MutableBytes.allocate(byteCount: ProductKernels.scratchBytes, alignment: 64)
  /// The first failure since it was last looked at.
  var failure: DeviceError?

  init(index: Int, budget: MemoryBudget) throws(DeviceError) {
    var handle: OpaquePointer?
    let code = onednn_lane_create(Int32(index), &handle)
    guard code == 0, let handle else { throw .library(operation: "oneDNN stream", code: code) }
    self.handle = handle
    productScratch = ScratchMemory(budget: budget)
    scratch = ScratchMemory(budget: budget)
  }

  deinit {
    onednn_lane_destroy(handle)
    blockScratch.deallocate()
  }

  /// - Parameter reach: which part is wanted, by strip of the own kernels' rows; oneDNN makes all of it.
  func multiply(
    _ primitive: MatmulPrimitive, _ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ c: UnsafeMutableRawPointer,
    reach: ProductReach? = nil
  ) {
    switch primitive.body {
    case .library(let product, let scratchBytes):
      let code = onednn_matmul_execute(product, handle, a, b, c, productScratch.reserve(scratchBytes))
      if code != 0, failure == nil {
        failure = .library(operation: "oneDNN matrix product of \(primitive.shape)", code: code)
      }
    case .own(let kernels): multiply(primitive.shape, kernels, a, b, c, reach)
    }
  }

  /// A product small enough for the second-level cache, by kernels of our own.
  private func multiply(
    _ shape: MatmulShape, _ own: ProductKernels, _ a: Bytes, _ b: Bytes, _ c: MutableBytes, _ reach: ProductReach?
  ) {
    let inPlace = shape.leftLies(own)
    let leftBytes = inPlace ? 0 : own.packedBytes(.left, lines: shape.rows, inner: shape.inner)
    let packed = productScratch.reserve(leftBytes + own.packedBytes(.right, lines: shape.columns, inner: shape.inner))
    if !inPlace { own.pack(shape.packing(.left, a, into: packed, own, blockScratch)) }
    own.pack(shape.packing(.right, b, into: packed + leftBytes, own, blockScratch))
    own.multiply(
      PackedProduct(
        left: inPlace ? a : Bytes(packed), leftStride: inPlace ? shape.aStride : nil, right: packed + leftBytes,
        rows: shape.rows, columns: shape.columns, inner: shape.inner, c: c,
        cIsBFloat16: shape.resultType == .bfloat16, cStride: shape.cStride,
        initial: shape.accumulate ? Floats(c.assumingMemoryBound(to: Float.self)) : nil,
        initialStride: shape.cStride, outer: .left, reach: reach, scratch: blockScratch))
  }
}

extension MatmulShape {
  /// Whether the left operand need not be packed.
  func leftLies(_ kernels: ProductKernels) -> Bool {
    inner <= kernels.leftRowsLimit && !transposeA && rows % kernels.leftLines == 0 && inner % kernels.innerStep == 0
  }

  /// The packing of an operand; `source` is its first element.
  func packing(
    _ side: OperandSide, _ source: Bytes, into packed: MutableBytes, _ kernels: ProductKernels, _ scratch: MutableBytes
  )
    -> Packing
  {
    let left = side == .left
    return Packing(
      side: side, source: source, stride: left ? aStride : bStride,
      innerIsContiguous: left ? !transposeA : transposeB, lines: left ? rows : columns, inner: inner, packed: packed,
      stripBytes: kernels.stripBytes(side, inner: inner), scratch: scratch)
  }
}

/// A product cut into tiles of c; the cut is a function of the shape alone, so that the bits are too.
struct MatmulPlan {
  let rowTiles: TileCut
  let columnTiles: TileCut
  /// By [last row tile][last column tile]; an edge as large as the others repeats them.
  let primitives: [MatmulPrimitive]
  var tileCount: Int { rowTiles.count * columnTiles.count }

  func primitive(row: Int, column: Int) -> MatmulPrimitive {
    primitives[(row == rowTiles.count - 1 ? 2 : 0) + (column == columnTiles.count - 1 ? 1 : 0)]
  }
}

/// 0..<total in pieces of equal size but the last.
struct TileCut: Hashable {
  let total: Int
  let size: Int
  init(total: Int, size: Int) {
    self.total = total
    self.size = size
  }
  var count: Int { total == 0 ? 0 : (total + size - 1) / size }
  var lastSize: Int { total - (count - 1) * size }
  func range(_ index: Int) -> Range<Int> { index * size..<min((index + 1) * size, total) }
  func length(_ index: Int) -> Int { index == count - 1 ? lastSize : size }
}

/// Which products are made by kernels of our own; oneDNN makes the others.
struct OwnProducts {
  var float32: ProductKernels?
  var bfloat16: ProductKernels?
  /// Part of the device's fingerprint.
  var name = ""
  subscript(type: ElementType) -> ProductKernels? { type == .bfloat16 ? bfloat16 : float32 }
}

/// Compiled products by shape. Used by the owner of the device alone; primitives are then run by any lane.
final class MatmulCache {
  private let lanes: Int
  private let own: OwnProducts
  private var primitives: [MatmulShape: MatmulPrimitive] = [:]
  private var plans: [MatmulShape: MatmulPlan] = [:]

  init(lanes: Int, own: OwnProducts) {
    self.lanes = lanes
    self.own = own
  }

  func primitive(_ shape: MatmulShape) throws(DeviceError) -> MatmulPrimitive {
    if let known = primitives[shape] { return known }
    let made: MatmulPrimitive
    if let kernels = own[shape.operandType] {
      made = MatmulPrimitive(shape, own: kernels)
    } else {
      made = try MatmulPrimitive(shape, lanes: lanes)
    }
    primitives[shape] = made
    return made
  }

  func plan(_ shape: MatmulShape) throws(DeviceError) -> MatmulPlan {
    if let known = plans[shape] { return known }
    let (rowTiles, columnTiles) = Self.cut(shape)
    var parts: [MatmulPrimitive] = []
    for rows in [rowTiles.size, rowTiles.lastSize] {
      for columns in [columnTiles.size, columnTiles.lastSize] {
        var part = shape
        part.rows = rows
        part.columns = columns
        parts.append(try primitive(part))
      }
    }
    let plan = MatmulPlan(rowTiles: rowTiles, columnTiles: columnTiles, primitives: parts)
    plans[shape] = plan
    return plan
  }

  /// Tiles large enough for the library to reach its speed, small enough for the caches, and enough of them to
  /// share out. In one sweep with oneDNN 2.6.3 on a busy machine (AMX),
  /// 256 x 384 was among the fastest for a times b transposed; for weight gradients 512 x 768 came out 7 % faster.
  static func cut(_ shape: MatmulShape) -> (rows: TileCut, columns: TileCut) {
    let wantedTiles = 8
    var rows = min(shape.rows, 256)
    var columns = min(shape.columns, 384)
    func tiles() -> Int {
      TileCut(total: shape.rows, size: rows).count * TileCut(total: shape.columns, size: columns).count
    }
    while tiles() < wantedTiles, rows > 128 || columns > 256 {
      if rows >= columns || columns <= 256 {
        rows = roundUp(rows / 2, to: 32)
      } else {
        columns = roundUp(columns / 2, to: 64)
      }
    }
    return (balanced(shape.rows, rows, 32), balanced(shape.columns, columns, 64))
  }

  /// The same number of pieces, as equal as multiples of `unit` allow.
  private static func balanced(_ total: Int, _ size: Int, _ unit: Int) -> TileCut {
    let pieces = TileCut(total: total, size: size).count
    return TileCut(total: total, size: min(roundUp((total + pieces - 1) / pieces, to: unit), total))
  }

  private static func roundUp(_ value: Int, to unit: Int) -> Int { (value + unit - 1) / unit * unit }
}
