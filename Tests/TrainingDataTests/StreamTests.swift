import ClusterModel
import Randomness
import Testing
import TrainingData

@Suite struct StreamTests {
  @Test(arguments: [1, 2, 3, 7, 16, 17, 1000, 4097] as [UInt64]) func aPermutationReachesEverything(count: UInt64) {
    for seed in [1, 2] as [UInt64] {
      let permutation = IndexPermutation(
        count: count, stream: CounterStream(seed: seed, purpose: .permutation, stream: 0))
      #expect((0..<count).map { permutation($0) }.sorted() == Array(0..<count))
    }
  }

  @Test func aPermutationMixes() {
    let permutation = IndexPermutation(
      count: 100_000, stream: CounterStream(seed: 5, purpose: .permutation, stream: 3))
    let images = (0..<100_000).map { permutation(UInt64($0)) }
    let fixed = images.enumerated().filter { UInt64($0.offset) == $0.element }.count
    #expect(fixed < 10)
    // Neighbours are as far apart as chance would have them: a third of the range on average.
    let distance = zip(images, images.dropFirst()).reduce(0.0) { $0 + abs(Double($1.0) - Double($1.1)) } / 99_999
    #expect(abs(distance / 100_000 - 1.0 / 3) < 0.01)
  }

  @Test func aPermutationIsEvaluatedAtTheScaleOf2TTokens() {
    let count: UInt64 = 488_281_250
    let permutation = IndexPermutation(
      count: count, stream: CounterStream(seed: 5, purpose: .permutation, stream: 3))
    let images = (0..<2000).map { permutation(count - 1 - UInt64($0)) }
    #expect(Set(images).count == 2000 && images.allSatisfy { $0 < count })
  }

  @Test func aPermutationNeverChanges() {
    // Part of the definition of a run: another result would train on other data.
    let permutation = IndexPermutation(
      count: 1000, stream: CounterStream(seed: 7, purpose: .permutation, stream: 2))
    #expect((0..<8).map { permutation($0) } == [926, 201, 48, 287, 967, 547, 739, 661])
  }

  @Test func everySequenceComesOnceAnEpoch() throws {
    let source = try MicrobatchTests.source()
    let dataset = source.dataset
    for kind in DataSource.allCases {
      let count = dataset.sequenceCount(kind, .train)
      var seen: [UInt64: [UInt64]] = [:]
      var position: UInt64 = 0
      while seen[2]?.count ?? 0 < Int(count) {
        let sample = source.sample(position)
        #expect(sample.position == position && sample.split == .train)
        if sample.source == kind { seen[sample.epoch, default: []].append(sample.sequence) }
        position += 1
      }
      for epoch in 0..<3 as Range<UInt64> { #expect(seen[epoch]?.sorted() == Array(0..<count)) }
      #expect(seen[0] != seen[1])
    }
  }

  @Test func stepsTakeTheStreamInOrder() throws {
    let source = try MicrobatchTests.source()
    #expect(source.samplesPerStep == 12 && source.tokensPerStep == 12 * 64)
    #expect(source.samples(step: 0) == 0..<12)
    #expect(source.samples(step: 9) == 108..<120)
  }

  @Test func aSkipMovesTheSamplesOfLaterStepsAndNothingInThem() throws {
    let plain = try MicrobatchTests.source()
    var skipping = plain
    // Step 2 is bad; its samples and those tried in its place are left out.
    skipping.skips = try SkippedSamples([24..<36, 36..<48], perStep: plain.samplesPerStep)
    for step in 0..<2 as Range<UInt64> {
      #expect(skipping.samples(step: step) == plain.samples(step: step))
      #expect(try skipping.denominators(step: step) == plain.denominators(step: step))
    }
    for step in 2..<5 as Range<UInt64> {
      #expect(skipping.samples(step: step) == plain.samples(step: step + 2))
      #expect(try skipping.denominators(step: step) == plain.denominators(step: step + 2))
      #expect(
        try skipping.denominators(step: step) == plain.denominators(samples: plain.samples(step: step + 2)))
      // What is random goes with the samples: documents, order, dropout, noise and timesteps are theirs.
      for index in 0..<3 {
        #expect(try skipping.microbatch(step: step, index: index) == plain.microbatch(step: step + 2, index: index))
      }
    }
    let given = try MicrobatchSource(dataset: plain.dataset, sampling: plain.sampling, skips: skipping.skips)
    #expect(given.samples(step: 2) == 48..<60)
  }

  @Test(arguments: [(1, 1), (3, 1), (2, 5), (1, 0), (0, 4)] as [(UInt32, UInt32)])
  func theMixIsKeptAtEveryPosition(images: UInt32, text: UInt32) throws {
    let source = try MicrobatchTests.source { $0.mix = SourceMix(images: images, text: text) }
    var count = 0
    for position in 0..<200 as Range<UInt64> {
      if source.sample(position).source == .images { count += 1 }
      let share = Double(position + 1) * Double(images) / Double(images + text)
      #expect(abs(Double(count) - share) < 1)
    }
    // Far into a 2T-token run, at once.
    #expect(source.sample(488_281_250).position == 488_281_250)
  }

  @Test func impossibleSamplingIsRefused() throws {
    #expect(dataError { _ = try MicrobatchTests.source { $0.mix = SourceMix(images: 0, text: 0) } } != nil)
    #expect(dataError { _ = try MicrobatchTests.source { $0.captionFirst = 1.5 } } != nil)
    #expect(dataError { _ = try MicrobatchTests.source { $0.captionDropout = .nan } } != nil)
    #expect(dataError { _ = try MicrobatchTests.source { $0.microbatches = 0 } } != nil)
  }
}
