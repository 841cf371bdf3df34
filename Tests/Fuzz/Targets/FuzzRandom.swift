/// Random numbers of the fuzzer: SplitMix64, so that an input is a function of (seed, target, number).
public struct FuzzRandom {
  private var state: UInt64

  public init(seed: UInt64, target: String, index: UInt64) {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in target.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
    state = seed &* 0x9e37_79b9_7f4a_7c15 ^ hash ^ index &* 0xd134_2543_de82_ef95
  }

  public mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }

  /// 0 ..< `count`; 0 when there is nothing to choose from.
  public mutating func below(_ count: Int) -> Int {
    count <= 1 ? 0 : Int(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(count)).high)
  }
  public mutating func oneIn(_ count: Int) -> Bool { below(count) == 0 }
  public mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: next() >> 32) }

  /// Small numbers most of the time, large ones sometimes.
  public mutating func length(atMost limit: Int) -> Int {
    let bits = below(max(1, Int.bitWidth - max(1, limit).leadingZeroBitCount)) + 1
    return min(limit, below(1 << bits) + 1)
  }
  public mutating func pick<Element>(_ from: [Element]) -> Element { from[below(from.count)] }

  /// Numbers at which arithmetic and limits break, and any other.
  public mutating func number() -> UInt64 {
    switch below(8) {
    case 0: return UInt64(below(4))
    case 1: return UInt64.max &- UInt64(below(4))
    case 2, 3: return (1 << UInt64(below(64))) &+ UInt64(below(3)) &- 1
    case 4: return UInt64(below(256))
    case 5: return UInt64(below(1 << 20))
    default: return next() >> UInt64(below(64))
    }
  }
}
