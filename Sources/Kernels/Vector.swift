import CVector

/// The unit of every loop. Sixteen lanes are one register with AVX-512 and two with AVX2.
typealias Vector = SIMD16<Float>
typealias Lanes32 = SIMD16<UInt32>

/// Lanes of a `Vector`.
@inline(__always) var width: Int { 16 }

extension SIMD16<Float> {
  @inline(__always)
  var bits: Lanes32 { unsafeBitCast(self, to: Lanes32.self) }

  @inline(__always)
  init(bits: Lanes32) { self = unsafeBitCast(bits, to: Vector.self) }

  /// Adds halves to halves, so that the order is the same however wide the registers are.
  @_transparent
  var total: Float { vector_total(self) }

  @_transparent
  var largest: Float { vector_largest(self) }
}

/// Larger lanes of both; `b` where `a` is NaN.
@_transparent
func maximum(_ a: Vector, _ b: Vector) -> Vector { vector_maximum(a, b) }

/// Smaller lanes of both; `b` where `a` is NaN.
@_transparent
func minimum(_ a: Vector, _ b: Vector) -> Vector { vector_minimum(a, b) }

/// Calls `body(start, lanes)` over `count` elements: whole vectors first, then what is left.
@inline(__always)
func forEachVector(_ count: Int, _ body: (Int, Int) -> Void) {
  var start = 0
  while start + width <= count {
    body(start, width)
    start += width
  }
  if start < count { body(start, count - start) }
}

/// 2^x with a relative error below 2 * 10^-7; 0 below the normal range, infinity above 127.49, NaN stays NaN.
///
/// The argument is split into its nearest integer, which goes to the exponent bits, and a rest in
/// [-1/2, 1/2], for which the Taylor polynomial of degree 7 of exp(r ln 2) suffices.
@_transparent
func exponential2(_ x: Vector) -> Vector {
  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the significand.
  let magic: Float = 12_582_912
  let clamped = minimum(maximum(x, Vector(repeating: -126)), Vector(repeating: 127.49))
  let shifted = clamped + magic
  let rest = clamped - (shifted - magic)
  var polynomial = Vector(repeating: 1.525_273_4e-5)
  polynomial = Vector(repeating: 1.540_353_0e-4).addingProduct(polynomial, rest)
  polynomial = Vector(repeating: 1.333_355_8e-3).addingProduct(polynomial, rest)
  polynomial = Vector(repeating: 9.618_129_1e-3).addingProduct(polynomial, rest)
  polynomial = Vector(repeating: 5.550_410_9e-2).addingProduct(polynomial, rest)
  polynomial = Vector(repeating: 2.402_265_07e-1).addingProduct(polynomial, rest)
  polynomial = Vector(repeating: 6.931_471_8e-1).addingProduct(polynomial, rest)
  polynomial = Vector(repeating: 1).addingProduct(polynomial, rest)
  // The low bits of `shifted` are the integer; shifting them to the exponent drops the rest of `magic`.
  let scaled = Vector(bits: polynomial.bits &+ (shifted.bits &<< 23))
  let small = vector_where_less(x, Vector(repeating: -126), .zero, scaled)
  let large = vector_where_less(Vector(repeating: 127.49), x, Vector(repeating: .infinity), small)
  return vector_where_number(x, large, x)
}

@inline(__always) var log2OfE: Float { 1.442_695_04 }
@inline(__always) var lnOf2: Float { 0.693_147_18 }

/// e^x by way of 2^x. The rounding of x log2(e) is taken back to first order.
@_transparent
func exponential(_ argument: Vector) -> Vector {
  // Past these bounds the result is 0 or infinity already, and there is nothing to correct.
  let x = minimum(maximum(argument, Vector(repeating: -100)), Vector(repeating: 88.3))
  let product = x * log2OfE
  // What the product lost: x * log2(e) exactly minus product, plus x times the rest of log2(e).
  let lost = (-product).addingProduct(x, Vector(repeating: log2OfE)).addingProduct(x, Vector(repeating: 1.925_963e-8))
  let power = exponential2(product)
  let corrected = power.addingProduct(power, lost * lnOf2)
  let bounded = vector_where_less(Vector(repeating: 88.3), argument, Vector(repeating: .infinity), corrected)
  return vector_where_number(argument, bounded, argument)
}

/// 1 / (1 + e^-x)
@_transparent
func sigmoid(_ x: Vector) -> Vector { 1 / (1 + exponential(-x)) }

/// log2(x) without the C library, whose result depends on its version.
///
/// x = 2^k m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 atanh((m - 1) / (m + 1)) by its series.
@inline(__always)
func logarithm2(_ x: Float) -> Float {
  if !(x > 0 && x < .infinity) { return x == 0 ? -.infinity : x }
  let bits = Double(x).bitPattern
  var exponent = Double(Int(bits >> 52) - 1_023)
  var significand = Double(bitPattern: bits & 0xF_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000)
  if significand > 1.414_213_562 {
    significand /= 2
    exponent += 1
  }
  let t = (significand - 1) / (significand + 1)
  let square = t * t
  var series = 1.0 / 13
  for divisor in stride(from: 11.0, through: 1.0, by: -2.0) { series = series * square + 1 / divisor }
  return Float(exponent + 2 * t * series * 1.442_695_040_888_963_4)
}
