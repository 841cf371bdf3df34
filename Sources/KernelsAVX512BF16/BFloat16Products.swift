import CVector
import KernelInterface

/// Products of bfloat16 operands, for processors with AVX512-BF16: one instruction adds two products to each sum.
public let pairKernels = stripKernels(BFloat16Pair.self, blockBytes: 512 << 10, leftRowsLimit: 1_024)

/// Two neighbours of the inner dimension, the first in the lower half. The second's product is added first; either is
/// rounded to nearest, and what is below the normal range is taken for zero (Intel 64 and IA-32 Architectures Software
/// Developer's Manual, VDPBF16PS).
private enum BFloat16Pair: ProductLane {
  typealias Sums = Vector
  @inline(__always) static var leftLines: Int { 8 }
  @inline(__always) static var lanesAhead: Int { 8 }
  @inline(__always) static var elements: Int { 2 }
  @inline(__always) static var elementBytes: Int { 2 }

  @inline(__always)
  static func add(_ left: Float, _ right: Vector, to sums: Vector) -> Vector {
    vector_add_pairs(sums, splat(left), right)
  }

  @inline(__always)
  static func pack(line: Bytes, _ next: Int, _ elements: Int) -> UInt32 {
    let second = elements > 1 ? (line + next).loadUnaligned(as: UInt16.self) : 0
    return UInt32(second) << 16 | UInt32(line.loadUnaligned(as: UInt16.self))
  }

  @inline(__always)
  static func pack16(lines: Bytes, _ next: Int, _ target: MutableBytes) {
    vector_pack_pairs16(lines, lines + next, target)
  }

  @inline(__always)
  static func pack8(lines: Bytes, _ next: Int, _ target: MutableBytes) {
    vector_pack_pairs8(lines, lines + next, target)
  }
}
