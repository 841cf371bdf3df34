import CVector
import KernelInterface

/// Products of float32 operands. Strips of 8 rows and 48 columns keep 24 sums of sixteen lanes in registers: with fewer
/// columns or rows the second-level cache brings the strips no faster than they are multiplied.
public let productKernels = stripKernels(Float.self, blockBytes: 512 << 10, leftRowsLimit: 256)

extension Float: ProductLane {
  typealias Sums = Vector
  @inline(__always) static var leftLines: Int { 8 }
  @inline(__always) static var lanesAhead: Int { 8 }
  @inline(__always) static var elements: Int { 1 }
  @inline(__always) static var elementBytes: Int { 4 }

  @inline(__always)
  static func add(_ left: Float, _ right: Vector, to sums: Vector) -> Vector { sums.addingProduct(splat(left), right) }

  @inline(__always)
  static func pack(line: Bytes, _ next: Int, _ elements: Int) -> UInt32 { line.loadUnaligned(as: UInt32.self) }

  @inline(__always)
  static func pack16(lines: Bytes, _ next: Int, _ target: MutableBytes) { Float.store(Float.load(lines), target) }

  @inline(__always)
  static func pack8(lines: Bytes, _ next: Int, _ target: MutableBytes) {
    target.storeBytes(of: lines.loadUnaligned(as: SIMD8<Float>.self), as: SIMD8<Float>.self)
  }
}
