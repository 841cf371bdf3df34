import ClusterModel
import Randomness
import TransfusionModel

/// Makes the microbatches of a run, each from (data, seed, step, index) alone: any worker can make any of them at
/// any time, and all of them make the same.
///
/// The stream of samples is numbered from 0 (a sample is one packed sequence); step s with B microbatches of S
/// sequences takes B S consecutive positions, after the ranges that are skipped
/// for good. What is random in a sample is keyed by its position alone, so that a skip changes which samples a step
/// has and nothing in them. All members may be used from any thread.
public struct MicrobatchSource: Sendable {
  public let dataset: TrainingDataset
  public let sampling: SamplingConfiguration
  /// Positions that no step takes: part of what defines the run's result, and the same for all workers.
  public var skips: SkippedSamples

  /// - Throws: `DataError.impossible` when the data lacks a source that has a share, or a setting is out of range.
  public init(
    dataset: TrainingDataset, sampling: SamplingConfiguration, skips: SkippedSamples = SkippedSamples()
  ) throws(DataError) {
    try sampling.validate()
    for (source, share) in [(DataSource.images, sampling.mix.images), (.text, sampling.mix.text)] where share > 0 {
      guard dataset.sequenceCount(source, .train) > 0 else { throw dataset.missing(source, .train) }
    }
    self.dataset = dataset
    self.sampling = sampling
    self.skips = skips
  }

  /// The largest counts of any microbatch, training or validation.
  public var limits: MicrobatchLimits {
    MicrobatchLimits(
      rows: sampling.sequencesPerMicrobatch, length: dataset.sequenceLength,
      images: sampling.sequencesPerMicrobatch * dataset.mostImagesPerSequence)
  }

  /// Samples of one step.
  public var samplesPerStep: UInt64 { UInt64(sampling.microbatches) * UInt64(sampling.sequencesPerMicrobatch) }
  /// Sequence elements (tokens, patches and padding) of one step.
  public var tokensPerStep: UInt64 { samplesPerStep * UInt64(dataset.sequenceLength) }

  /// The positions of the stream that a step takes.
  public func samples(step: UInt64) -> Range<UInt64> { skips.samples(step: step, perStep: samplesPerStep) }

  /// The sample at a position of the stream: which sequence of which source it is, and in which pass over it.
  public func sample(_ position: UInt64) -> SampleIdentity {
    let (source, number) = sampling.mix.place(position)
    let count = dataset.sequenceCount(source, .train)
    let (epoch, index) = number.quotientAndRemainder(dividingBy: count)
    // Epochs of the two sources are different streams: the source is the lowest bit.
    let stream = CounterStream(
      seed: sampling.seed, purpose: .permutation, stream: epoch << 1 | (source == .text ? 1 : 0))
    let permutation = IndexPermutation(count: count, stream: stream)
    return SampleIdentity(
      position: position, source: source, split: .train, epoch: epoch, sequence: permutation(index))
  }

  /// Microbatch `index` of a step.
  /// - Throws: `DataError.damaged` when a file is not what it was when it was opened.
  public func microbatch(step: UInt64, index: Int, parts: MicrobatchParts = .all) throws(DataError) -> Microbatch {
    precondition(index >= 0 && index < sampling.microbatches, "a microbatch beyond the step")
    let rows = UInt64(sampling.sequencesPerMicrobatch)
    let first = samples(step: step).lowerBound + UInt64(index) * rows
    return try build((first..<first + rows).map(sample), parts: parts)
  }

  /// The counts by which every microbatch of a step divides its losses; no token is read.
  public func denominators(step: UInt64) throws(DataError) -> Denominators {
    try denominators(samples: samples(step: step))
  }

  /// The counts of a step that takes these positions, whatever is skipped.
  public func denominators(samples: Range<UInt64>) throws(DataError) -> Denominators {
    var result = Denominators(targetTokens: 0, images: 0)
    for position in samples { try count(sample(position), into: &result) }
    return result
  }

  // MARK: Validation: fixed order, noise and timesteps, every caption kept and first

  /// Microbatches that can be made from the validation split before a sequence would come twice, at least 1; 0
  /// when the split is missing.
  public var validationMicrobatchCount: Int {
    let total = UInt64(sampling.mix.images) + UInt64(sampling.mix.text)
    var cycles = UInt64.max
    for (source, share) in [(DataSource.images, sampling.mix.images), (.text, sampling.mix.text)] where share > 0 {
      cycles = min(cycles, dataset.sequenceCount(source, .validation) / UInt64(share))
    }
    let sources = [(DataSource.images, sampling.mix.images), (.text, sampling.mix.text)].filter { $0.1 > 0 }
    guard sources.allSatisfy({ dataset.sequenceCount($0.0, .validation) > 0 }) else { return 0 }
    return max(1, Int(cycles * total / UInt64(sampling.sequencesPerMicrobatch)))
  }

  /// Validation sample at a position; beyond the end of a source its sequences come again.
  public func validationSample(_ position: UInt64) throws(DataError) -> SampleIdentity {
    let (source, number) = sampling.mix.place(position)
    let count = dataset.sequenceCount(source, .validation)
    guard count > 0 else { throw dataset.missing(source, .validation) }
    let (epoch, index) = number.quotientAndRemainder(dividingBy: count)
    return SampleIdentity(position: position, source: source, split: .validation, epoch: epoch, sequence: index)
  }

  /// Validation microbatch `index`: the same in every run on the same data.
  /// - Throws: `DataError.impossible` when there is no validation split.
  public func validationMicrobatch(index: Int, parts: MicrobatchParts = .all) throws(DataError) -> Microbatch {
    precondition(index >= 0, "a microbatch before the first")
    return try build(try validationSamples(index), parts: parts)
  }

  /// The counts of the first `count` validation microbatches together.
  public func validationDenominators(count microbatches: Int) throws(DataError) -> Denominators {
    var result = Denominators(targetTokens: 0, images: 0)
    for index in 0..<microbatches {
      for sample in try validationSamples(index) { try count(sample, into: &result) }
    }
    return result
  }

  private func validationSamples(_ index: Int) throws(DataError) -> [SampleIdentity] {
    let rows = UInt64(sampling.sequencesPerMicrobatch)
    var result: [SampleIdentity] = []
    for position in UInt64(index) * rows..<(UInt64(index) + 1) * rows { result.append(try validationSample(position)) }
    return result
  }

  // MARK: One sample

  private func count(_ sample: SampleIdentity, into result: inout Denominators) throws(DataError) {
    let draw = SampleDraw(sampling, position: sample.position, split: sample.split)
    for (ordinal, segment) in try dataset.segments(sample.source, sample.split, sample.sequence).enumerated() {
      let dropped = sample.source == .images && draw.dropsCaption(ordinal)
      result.targetTokens += SegmentCutter.targets(
        count: dropped ? 0 : Int(segment.count), ends: segment.ends, source: sample.source)
      if sample.source == .images { result.images += 1 }
    }
  }

  private func build(_ samples: [SampleIdentity], parts: MicrobatchParts) throws(DataError) -> Microbatch {
    var builder = MicrobatchBuilder(dataset: dataset, rows: samples.count, parts: parts)
    for sample in samples {
      try builder.append(sample, draw: SampleDraw(sampling, position: sample.position, split: sample.split))
    }
    return try builder.finish()
  }
}

/// Which sequence stands at a position of the stream.
public struct SampleIdentity: Hashable, Sendable {
  /// Position in the run's stream of samples (or in the validation order).
  public var position: UInt64
  public var source: DataSource
  public var split: DataSplit
  /// How often the source was passed over before.
  public var epoch: UInt64
  /// Number of the packed sequence in its source and split.
  public var sequence: UInt64
}
