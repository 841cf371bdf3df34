import ClusterModel
import Foundation
import Testing

@Suite("Skipped samples") struct SkippedSamplesTests {
  @Test("without skips steps take the stream in order") func none() {
    let skips = SkippedSamples()
    for step in 0..<10 as Range<UInt64> {
      #expect(skips.samples(step: step, perStep: 8) == step * 8..<(step + 1) * 8)
      #expect(skips.nextSample(step, perStep: 8) == step * 8)
    }
    #expect(skips.isEmpty && skips.count == 0)
  }

  @Test("a step begins after the ranges that begin where it would") func jumps() throws {
    let skips = try SkippedSamples([24..<32, 8..<16, 16..<24, 48..<51], perStep: 8)
    #expect(skips.ranges == [8..<32, 48..<51])
    let samples = (0..<6 as Range<UInt64>).map { skips.samples(step: $0, perStep: 8) }
    #expect(samples == [0..<8, 32..<40, 40..<48, 51..<59, 59..<67, 67..<75])
    #expect(skips.count == 27)
  }

  @Test("steps and skips fill the stream without gap or overlap") func fills() throws {
    let skips = try SkippedSamples([0..<4, 12..<24, 36..<37], perStep: 4)
    var positions: [UInt64] = []
    for step in 0..<12 as Range<UInt64> { positions += Array(skips.samples(step: step, perStep: 4)) }
    for range in skips.ranges { positions += Array(range) }
    #expect(positions.sorted() == Array(0..<UInt64(positions.count)))
  }

  @Test("a range that is skipped later does not move a state that was there before") func statesStay() throws {
    var skips = SkippedSamples()
    try skips.insert(0..<8, perStep: 8)
    #expect(skips.nextSample(0, perStep: 8) == 0)
    #expect(skips.nextSample(2, perStep: 8) == 24)
    let before = (0...3 as ClosedRange<UInt64>).map { skips.nextSample($0, perStep: 8) }
    let first = (0..<3 as Range<UInt64>).map { skips.samples(step: $0, perStep: 8) }
    // The step that makes state 4 is bad, twice.
    try skips.insert(skips.samples(step: 3, perStep: 8), perStep: 8)
    try skips.insert(skips.samples(step: 3, perStep: 8), perStep: 8)
    #expect((0...3 as ClosedRange<UInt64>).map { skips.nextSample($0, perStep: 8) } == before)
    #expect((0..<3 as Range<UInt64>).map { skips.samples(step: $0, perStep: 8) } == first)
    #expect(skips.samples(step: 3, perStep: 8) == 48..<56)
    #expect(skips.nextSample(4, perStep: 8) == 56)
  }

  @Test("ranges that no step could leave out are refused") func refusals() throws {
    func refusal(_ ranges: [Range<UInt64>]) -> SkippedSamplesError? {
      do throws(SkippedSamplesError) {
        _ = try SkippedSamples(ranges, perStep: 8)
        return nil
      } catch { return error }
    }
    #expect(refusal([8..<8]) == .empty(at: 8))
    #expect(refusal([9..<17]) == .insideStep(9..<17, perStep: 8))
    #expect(refusal([8..<16, 12..<20]) == .overlaps(12..<20, 8..<16))
    #expect(refusal([8..<11, 16..<24]) == .insideStep(16..<24, perStep: 8))
    #expect(refusal([8..<11, 19..<24]) == nil)
    var skips = try SkippedSamples([40..<48], perStep: 8)
    #expect(throws: SkippedSamplesError.beforeAnother(8..<16, 40..<48)) { try skips.insert(8..<16, perStep: 8) }
    #expect(skips.ranges == [40..<48])
  }

  @Test("JSON gives the same ranges back, and nothing else is read") func coding() throws {
    let skips = try SkippedSamples([8..<16, 32..<40], perStep: 8)
    let json = try JSONEncoder().encode(skips)
    #expect(try JSONDecoder().decode(SkippedSamples.self, from: json) == skips)
    for bad in ["[[8,8]]", "[[8,16],[16,24]]", "[[32,40],[8,16]]", "[[16,8]]", "[[-1,8]]"] {
      #expect(throws: (any Error).self) { try JSONDecoder().decode(SkippedSamples.self, from: Data(bad.utf8)) }
    }
  }
}
