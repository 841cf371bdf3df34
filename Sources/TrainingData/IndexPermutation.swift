import Randomness

/// A pseudo-random permutation of 0..<count that is evaluated by index: nothing is shuffled in memory.
///
/// A balanced Feistel network on the next even number of bits, whose round function is Philox 4x32-10; results
/// outside the range are put through again until they fall inside ("cycle walking", Black and Rogaway 2002), at
/// most four times as many rounds on average.
public struct IndexPermutation: Sendable {
  public let count: UInt64
  private let halfBits: UInt64
  private let key: SIMD2<UInt32>

  private static let rounds: UInt32 = 8

  /// - Parameter stream: its first numbers are the key.
  public init(count: UInt64, stream: CounterStream) {
    self.count = count
    let bits = count <= 1 ? 0 : UInt64(UInt64.bitWidth - (count - 1).leadingZeroBitCount)
    halfBits = (bits + 1) / 2
    key = SIMD2(stream.bits(0), stream.bits(1))
  }

  /// Where `index` goes; every value of 0..<count is reached from exactly one index.
  public func callAsFunction(_ index: UInt64) -> UInt64 {
    precondition(index < count, "an index beyond the permutation")
    var value = index
    repeat { value = encipher(value) } while value >= count
    return value
  }

  private func encipher(_ value: UInt64) -> UInt64 {
    let mask = (UInt64(1) << halfBits) - 1
    var left = value >> halfBits
    var right = value & mask
    for round in 0..<Self.rounds {
      let block = Philox.block(
        counter: SIMD4(UInt32(truncatingIfNeeded: right), UInt32(truncatingIfNeeded: right >> 32), round, 0), key: key)
      (left, right) = (right, left ^ (UInt64(block[0]) & mask))
    }
    return left << halfBits | right
  }
}
