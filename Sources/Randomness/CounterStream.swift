import Foundation

/// An infinite random-access sequence of random numbers that is a pure function of (seed, purpose, stream).
///
/// Element `i` of a stream never depends on which elements were asked for before.
public struct CounterStream: Sendable {
  let key: SIMD2<UInt32>
  let purpose: UInt32
  let stream: UInt64

  /// - Parameters:
  ///   - seed: the run's seed.
  ///   - purpose: keeps streams of different uses apart.
  ///   - stream: which stream of that use, for example a sample's position in the run (at most 2^62).
  public init(seed: UInt64, purpose: Purpose, stream: UInt64) {
    // The purpose lives in the key's high bits mixed by one block, so that the whole 128-bit counter
    // is left to (element, stream).
    let mixed = Philox.block(
      counter: SIMD4(purpose.rawValue, 0, 0, 0x5452_4653),
      key: SIMD2(UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32)))
    key = SIMD2(mixed[0], mixed[1])
    self.purpose = purpose.rawValue
    self.stream = stream
  }

  @inline(__always) func block(_ index: UInt64) -> SIMD4<UInt32> {
    Philox.block(
      counter: SIMD4(
        UInt32(truncatingIfNeeded: index), UInt32(truncatingIfNeeded: index >> 32),
        UInt32(truncatingIfNeeded: stream), UInt32(truncatingIfNeeded: stream >> 32)),
      key: key)
  }

  /// Element `index` as 32 uniform bits.
  public func bits(_ index: UInt64) -> UInt32 { block(index >> 2)[Int(index & 3)] }
  /// Element `index` as a number in [0, 1) with 32 random bits.
  public func uniform(_ index: UInt64) -> Double { Double(bits(index)) * 0x1p-32 }
  /// Element `index` as an integer in 0..<bound, by multiplication (bias below 2^-32 x bound).
  public func integer(_ index: UInt64, below bound: UInt32) -> UInt32 {
    UInt32(truncatingIfNeeded: (UInt64(bits(index)) * UInt64(bound)) >> 32)
  }

  /// Standard normal numbers: element `first + i` into `output[i]` (Box-Muller on pairs in double precision).
  public func fillGaussian(_ output: inout [Float], from first: UInt64 = 0) {
    output.withUnsafeMutableBufferPointer { fillGaussian($0, from: first) }
  }
  public func fillGaussian(_ output: UnsafeMutableBufferPointer<Float>, from first: UInt64 = 0) {
    var i = 0
    while i < output.count {
      let element = first + UInt64(i)
      let four = gaussians(element >> 2)
      var lane = Int(element & 3)
      while lane < 4 && i < output.count {
        output[i] = four[lane]
        lane += 1
        i += 1
      }
    }
  }

  func gaussians(_ index: UInt64) -> SIMD4<Float> {
    let b = block(index)
    func pair(_ u: UInt32, _ v: UInt32) -> (Float, Float) {
      // (u + 1/2) / 2^32 is in (0, 1): the logarithm is finite and the largest value about 6.7.
      let radius = (-2 * log((Double(u) + 0.5) * 0x1p-32)).squareRoot()
      let angle = 2 * Double.pi * (Double(v) * 0x1p-32)
      return (Float(radius * cos(angle)), Float(radius * sin(angle)))
    }
    let (x, y) = pair(b[0], b[1])
    let (z, w) = pair(b[2], b[3])
    return SIMD4(x, y, z, w)
  }
}
