import Randomness
import Testing

@Suite struct PhiloxTests {
  /// Known answers of Random123's kat_vectors file (philox4x32, 10 rounds).
  @Test func knownAnswers() {
    #expect(
      Philox.block(counter: SIMD4(0, 0, 0, 0), key: SIMD2(0, 0))
        == SIMD4(0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8))
    #expect(
      Philox.block(counter: SIMD4(repeating: 0xffff_ffff), key: SIMD2(repeating: 0xffff_ffff))
        == SIMD4(0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd))
    #expect(
      Philox.block(
        counter: SIMD4(0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344), key: SIMD2(0xa409_3822, 0x299f_31d0))
        == SIMD4(0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1))
  }

  @Test func gaussiansDoNotDependOnWhereTheFillStarts() {
    let stream = CounterStream(seed: 7, purpose: .noise, stream: 3)
    var whole = [Float](repeating: 0, count: 103)
    stream.fillGaussian(&whole)
    for start in [1, 2, 5, 64] {
      var part = [Float](repeating: 0, count: 103 - start)
      stream.fillGaussian(&part, from: UInt64(start))
      #expect(part == Array(whole[start...]))
    }
  }

  @Test func momentsAreThoseOfTheStandardNormal() {
    var values = [Float](repeating: 0, count: 200_000)
    CounterStream(seed: 1, purpose: .parameters, stream: 9).fillGaussian(&values)
    let n = Double(values.count)
    let mean = values.reduce(0) { $0 + Double($1) } / n
    let variance = values.reduce(0) { $0 + Double($1) * Double($1) } / n - mean * mean
    let fourth = values.reduce(0) { $0 + Double($1) * Double($1) * Double($1) * Double($1) } / n
    #expect(abs(mean) < 0.01)
    #expect(abs(variance - 1) < 0.02)
    #expect(abs(fourth - 3) < 0.15)
  }

  @Test func streamsOfDifferentPurposeSeedOrNumberDiffer() {
    let streams = [
      CounterStream(seed: 1, purpose: .noise, stream: 0), CounterStream(seed: 2, purpose: .noise, stream: 0),
      CounterStream(seed: 1, purpose: .timestep, stream: 0), CounterStream(seed: 1, purpose: .noise, stream: 1),
    ]
    let first = streams.map { s in (0..<8).map { s.bits($0) } }
    #expect(Set(first).count == 4)
  }
}
