import CVector
import KernelInterface

// Strips of 4 rows and 24 columns keep 12 sums of eight lanes in registers, beside a row of the right strip and an element of
// the left one. Of the second-level cache, 512 KB of a Zen core, a block and a right strip of the longest sums get 192 each.

/// Products of float32 operands.
public let productKernels = stripKernels(EightLanes<Float>.self, blockBytes: 192 << 10, leftRowsLimit: 256)

/// The same for bfloat16 operands, which packing widens: products are exact, sums float32.
public let widenedKernels = stripKernels(EightLanes<BFloat16>.self, blockBytes: 192 << 10, leftRowsLimit: 0)

/// An element of an operand that a lane holds as float32.
private protocol EightLaneElement: ComputeElement {
  static func load8(_ address: Bytes) -> SIMD8<Float>
}

extension Float: EightLaneElement {
  @inline(__always)
  fileprivate static func load8(_ address: Bytes) -> SIMD8<Float> { address.loadUnaligned(as: SIMD8<Float>.self) }
}

extension BFloat16: EightLaneElement {
  @inline(__always)
  fileprivate static func load8(_ address: Bytes) -> SIMD8<Float> {
    vector_from_bfloat16_8(address.loadUnaligned(as: SIMD8<UInt16>.self))
  }
}

private enum EightLanes<Element: EightLaneElement>: ProductLane {
  typealias Sums = SIMD8<Float>
  @inline(__always) static var leftLines: Int { 4 }
  @inline(__always) static var lanesAhead: Int { 0 }
  @inline(__always) static var elements: Int { 1 }
  @inline(__always) static var elementBytes: Int { Element.sizeBytes }

  @inline(__always)
  static func add(_ left: Float, _ right: SIMD8<Float>, to sums: SIMD8<Float>) -> SIMD8<Float> {
    vector_multiply_add_8(left, right, sums)
  }

  @inline(__always)
  static func store<Result: ComputeElement>(_ sums: SIMD8<Float>, _ type: Result.Type, _ target: MutableBytes) {
    if Result.sizeBytes == 2 {
      target.storeBytes(of: vector_to_bfloat16_8(sums), as: SIMD8<UInt16>.self)
    } else {
      target.storeBytes(of: sums, as: SIMD8<Float>.self)
    }
  }

  @inline(__always)
  static func pack(line: Bytes, _ next: Int, _ elements: Int) -> UInt32 { Element.load(one: line).bitPattern }

  @inline(__always)
  static func pack16(lines: Bytes, _ next: Int, _ target: MutableBytes) { Float.store(Element.load(lines), target) }

  @inline(__always)
  static func pack8(lines: Bytes, _ next: Int, _ target: MutableBytes) {
    target.storeBytes(of: Element.load8(lines), as: SIMD8<Float>.self)
  }
}
