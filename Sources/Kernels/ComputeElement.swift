import CVector

/// An element type of tensors that kernels read and write through float32 vectors.
protocol ComputeElement {
  static var sizeBytes: Int { get }
  static func load(_ address: UnsafeRawPointer) -> Vector
  static func store(_ value: Vector, _ address: UnsafeMutableRawPointer)
  static func load(one address: UnsafeRawPointer) -> Float
  static func store(one value: Float, _ address: UnsafeMutableRawPointer)
}

extension ComputeElement {
  /// Elements `index ..< index + lanes`; the other lanes are zero.
  @inline(__always)
  static func load(_ base: UnsafeRawPointer, _ index: Int, _ lanes: Int) -> Vector {
    let address = base + index * sizeBytes
    return lanes == width ? load(address) : loadPart(address, lanes)
  }
  @inline(__always)
  static func store(_ value: Vector, _ base: UnsafeMutableRawPointer, _ index: Int, _ lanes: Int) {
    let address = base + index * sizeBytes
    if lanes == width { store(value, address) } else { storePart(value, address, lanes) }
  }

  @inline(never)
  static func loadPart(_ address: UnsafeRawPointer, _ lanes: Int) -> Vector {
    var value = Vector.zero
    for lane in 0..<lanes { value[lane] = load(one: address + lane * sizeBytes) }
    return value
  }
  @inline(never)
  static func storePart(_ value: Vector, _ address: UnsafeMutableRawPointer, _ lanes: Int) {
    for lane in 0..<lanes { store(one: value[lane], address + lane * sizeBytes) }
  }
}

extension Float: ComputeElement {
  @inline(__always) static var sizeBytes: Int { 4 }
  @inline(__always)
  static func load(_ address: UnsafeRawPointer) -> Vector { address.loadUnaligned(as: Vector.self) }
  @inline(__always)
  static func store(_ value: Vector, _ address: UnsafeMutableRawPointer) {
    address.storeBytes(of: value, as: Vector.self)
  }
  @inline(__always)
  static func load(one address: UnsafeRawPointer) -> Float { address.loadUnaligned(as: Float.self) }
  @inline(__always)
  static func store(one value: Float, _ address: UnsafeMutableRawPointer) {
    address.storeBytes(of: value, as: Float.self)
  }
}

/// The upper half of a float32: the same exponent, seven bits of significand.
enum BFloat16: ComputeElement {
  @inline(__always) static var sizeBytes: Int { 2 }
  @inline(__always)
  static func load(_ address: UnsafeRawPointer) -> Vector {
    let halves = address.loadUnaligned(as: SIMD16<UInt16>.self)
    return Vector(bits: vector_widen(halves) &<< 16)
  }
  /// To nearest, ties to even; a NaN stays one, made quiet so that rounding cannot carry it into a number.
  @inline(__always)
  static func store(_ value: Vector, _ address: UnsafeMutableRawPointer) {
    let bits = value.bits
    let rounded = bits &+ 0x7FFF &+ ((bits &>> 16) & 1)
    let kept = vector_where_number(value, Vector(bits: rounded), Vector(bits: bits | 0x0040_0000)).bits
    address.storeBytes(of: vector_truncate(kept &>> 16), as: SIMD16<UInt16>.self)
  }
  @inline(__always)
  static func load(one address: UnsafeRawPointer) -> Float {
    Float(bitPattern: UInt32(address.loadUnaligned(as: UInt16.self)) << 16)
  }
  @inline(__always)
  static func store(one value: Float, _ address: UnsafeMutableRawPointer) {
    let bits = value.bitPattern
    let rounded = value.isNaN ? bits | 0x0040_0000 : bits &+ 0x7FFF &+ ((bits >> 16) & 1)
    address.storeBytes(of: UInt16(truncatingIfNeeded: rounded >> 16), as: UInt16.self)
  }
}
