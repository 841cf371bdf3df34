/// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a keyed
/// bijection on 128-bit counters, so that any value of any stream can be made anywhere at any time.
public enum Philox {
  @inlinable public static func block(counter: SIMD4<UInt32>, key: SIMD2<UInt32>) -> SIMD4<UInt32> {
    var c = counter
    var k = key
    for _ in 0..<10 {
      let a = UInt64(0xD251_1F53) &* UInt64(c[0])
      let b = UInt64(0xCD9E_8D57) &* UInt64(c[2])
      c = SIMD4(
        UInt32(truncatingIfNeeded: b >> 32) ^ c[1] ^ k[0], UInt32(truncatingIfNeeded: b),
        UInt32(truncatingIfNeeded: a >> 32) ^ c[3] ^ k[1], UInt32(truncatingIfNeeded: a))
      k = SIMD2(k[0] &+ 0x9E37_79B9, k[1] &+ 0xBB67_AE85)
    }
    return c
  }
}

/// What a stream of random numbers is for. The raw value is part of the run's definition: never renumber.
public enum Purpose: UInt32, Sendable, CaseIterable {
  case parameters = 1
  case permutation = 2
  case captionOrder = 3
  case captionDropout = 4
  case timestep = 5
  case noise = 6
  case latentSample = 7
  case validationTimestep = 8
  case validationNoise = 9
  case validationOrder = 10
}
