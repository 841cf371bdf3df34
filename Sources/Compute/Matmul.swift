import COneDNN

/// Strides and types of one matrix product; equal shapes share one compiled primitive.
struct MatmulShape: Hashable {
  var rows: Int
  var columns: Int
  var inner: Int
  var operandType: ElementType
  var resultType: ElementType
  var accumulate: Bool
  /// Elements between the rows of each matrix as it lies in memory.
  var aStride: Int
  var bStride: Int
  var cStride: Int
  var transposeA: Bool
  var transposeB: Bool
}

/// One compiled matrix product, or none where a dimension is zero.
final class MatmulPrimitive {
  let shape: MatmulShape
  fileprivate let handle: OpaquePointer
  let scratchBytes: Int

  fileprivate init(_ shape: MatmulShape) throws(DeviceError) {
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
    let code = onednn_matmul_create(&description, &handle)
    guard code == 0, let handle else {
      throw .library(operation: "oneDNN matrix product of \(shape)", code: code)
    }
    self.handle = handle
    scratchBytes = onednn_matmul_scratch_bytes(handle)
  }

  deinit { onednn_matmul_destroy(handle) }

  /// The library's name for the code it chose, for example "brg:avx512_core_amx_bf16".
  var implementation: String { String(cString: onednn_matmul_implementation(handle)) }
}

/// What one thread of the pool has for itself: a oneDNN stream and scratch memory.
final class Lane {
  private let handle: OpaquePointer
  private let libraryScratch: ScratchMemory
  let scratch: ScratchMemory
  /// The first failure since it was last looked at.
  var failure: DeviceError?

  init(budget: MemoryBudget) throws(DeviceError) {
    var handle: OpaquePointer?
    let code = onednn_lane_create(&handle)
    guard code == 0, let handle else { throw .library(operation: "oneDNN stream", code: code) }
    self.handle = handle
    libraryScratch = ScratchMemory(budget: budget)
    scratch = ScratchMemory(budget: budget)
  }

  deinit { onednn_lane_destroy(handle) }

  func multiply(
    _ primitive: MatmulPrimitive, _ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ c: UnsafeMutableRawPointer
  ) {
    let code = onednn_matmul_execute(
      primitive.handle, handle, a, b, c, libraryScratch.reserve(primitive.scratchBytes))
    if code != 0, failure == nil {
      failure = .library(operation: "oneDNN matrix product of \(primitive.shape)", code: code)
    }
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

/// Compiled products by shape. Used by the owner of the device alone; primitives are then run by any lane.
final class MatmulCache {
  private var primitives: [MatmulShape: MatmulPrimitive] = [:]
  private var plans: [MatmulShape: MatmulPlan] = [:]

  func primitive(_ shape: MatmulShape) throws(DeviceError) -> MatmulPrimitive {
    if let known = primitives[shape] { return known }
    let made = try MatmulPrimitive(shape)
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

  /// Tiles large enough for the library to reach its speed, and enough of them to share out.
  static func cut(_ shape: MatmulShape) -> (rows: TileCut, columns: TileCut) {
    let wantedTiles = 16
    var rows = min(shape.rows, 512)
    var columns = min(shape.columns, 768)
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
