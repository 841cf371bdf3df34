import ClusterModel
import ControlPlane
import Testing

@Suite("Loss spikes") struct LossSpikeTests {
  let detector = LossSpike(window: 10, deviations: 8)

  private func record(_ step: Step, languageModel: Double?, diffusion: Double? = nil) -> StepRecord {
    StepRecord(
      step: step, generation: Generation(1), samples: step * 8..<(step + 1) * 8, tokens: 512, targetTokens: 40,
      images: 4, languageModelLoss: languageModel, diffusionLoss: diffusion, gradientSumOfSquares: 1, learningRate: 1)
  }
  /// Falls slowly and wobbles by 0.05.
  private func history(_ count: Step) -> [StepRecord] {
    (0..<count).map { step in
      record(step, languageModel: 4 - Double(step) * 0.01 + Double(step * 7 % 5) * 0.025, diffusion: 0.3)
    }
  }

  @Test("a loss far above the median of the window is a spike, and the reason says so") func spike() throws {
    let reason = try #require(detector.isSpike(record(20, languageModel: 6), after: history(20)))
    #expect(reason.contains("language-model loss 6.0") && reason.contains("10 steps"))
    #expect(detector.isSpike(record(20, languageModel: 4.1), after: history(20)) == nil)
    #expect(detector.isSpike(record(20, languageModel: 0.1), after: history(20)) == nil)
  }

  @Test("each loss is judged by itself") func diffusion() throws {
    let reason = try #require(detector.isSpike(record(20, languageModel: 3.9, diffusion: 0.9), after: history(20)))
    #expect(reason.contains("diffusion loss 0.9"))
    #expect(detector.isSpike(record(20, languageModel: nil, diffusion: nil), after: history(20)) == nil)
  }

  @Test("without a whole window nothing is judged") func young() {
    #expect(detector.isSpike(record(9, languageModel: 1000), after: history(9)) == nil)
    #expect(detector.isSpike(record(10, languageModel: 1000), after: history(10)) != nil)
    // Steps of the window that the journal has lost.
    #expect(detector.isSpike(record(20, languageModel: 1000), after: Array(history(20).dropFirst(15))) == nil)
    #expect(LossSpike(window: 0, deviations: 8).isSpike(record(20, languageModel: 1000), after: history(20)) == nil)
  }

  @Test("a replay decides the same though the journal has more by then") func replay() {
    let all = history(40)
    for loss in stride(from: 3.5, to: 6, by: 0.05) {
      let judged = record(20, languageModel: loss)
      #expect(
        detector.isSpike(judged, after: Array(all[..<20])) == detector.isSpike(judged, after: all.shuffled(by: 7)))
    }
  }

  @Test("one committed outlier does not hide the next") func robust() {
    var all = history(20)
    all[18] = record(18, languageModel: 100)
    #expect(detector.isSpike(record(20, languageModel: 6), after: all) != nil)
    #expect(detector.isSpike(record(20, languageModel: 3.95), after: all) == nil)
  }

  @Test("losses that hardly differ do not make every rise a spike") func floor() {
    let flat = (0..<20 as Range<Step>).map { record($0, languageModel: 2) }
    #expect(detector.isSpike(record(20, languageModel: 2.01), after: flat) == nil)
    #expect(detector.isSpike(record(20, languageModel: 2.1), after: flat) != nil)
    #expect(detector.isSpike(record(20, languageModel: .nan), after: flat) != nil)
  }

  @Test("a loss that most steps of the window lack is not judged") func rare() {
    let rare = (0..<20 as Range<Step>).map {
      record($0, languageModel: 2, diffusion: $0.isMultiple(of: 4) ? 0.3 : nil)
    }
    #expect(detector.isSpike(record(20, languageModel: 2, diffusion: 50), after: rare) == nil)
  }
}

extension Array {
  /// In another order: every `stride`-th, round and round.
  fileprivate func shuffled(by stride: Int) -> [Element] { (0..<count).map { self[$0 * stride % count] } }
}
