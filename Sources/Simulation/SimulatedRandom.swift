/// SplitMix64 (Steele et al. 2014): every draw of a simulation comes from one of these, begun with the seed.
struct SimulatedRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64
  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return Self.finish(state)
  }

  static func finish(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  mutating func below(_ count: Int) -> Int { Int(truncatingIfNeeded: next() >> 33) % max(count, 1) }
  /// Inclusive.
  mutating func number(_ low: UInt64, _ high: UInt64) -> UInt64 { low + (next() >> 1) % (high - low + 1) }
  mutating func chance(_ probability: Double) -> Bool {
    probability > 0 && Double(next() >> 11) < probability * 0x1p53
  }
  mutating func pick<Value>(_ values: [Value]) -> Value { values[below(values.count)] }
}

/// A function of two numbers that tells their order.
@inline(__always) func mixed(_ a: UInt64, _ b: UInt64) -> UInt64 {
  SimulatedRandom.finish(a &* 0x9E37_79B9_7F4A_7C15 &+ (b ^ 0xD1B5_4A32_D192_ED03))
}
