import CVector
import KernelInterface

/// Products of float32 operands, for AVX-512: the sums of a block would spill from the registers of AVX2, where the
/// products are oneDNN's.
public let productKernels = stripKernels(Float.self, leftRowsLimit: 256)

extension Float: ProductLane {
  @inline(__always) static var elements: Int { 1 }

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
