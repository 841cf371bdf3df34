import Randomness

/// What chance decides about one image-caption pair of a sample.
struct PairDecision: Hashable {
  var captionFirst: Bool
  var dropsCaption: Bool
  var timestep: Int32
}

/// The random numbers of one sample: a function of (seed, its global position) alone, element n of every stream
/// belonging to image n of the sample.
struct SampleDraw {
  private let configuration: SamplingConfiguration
  private let order: CounterStream
  private let dropout: CounterStream
  private let timestep: CounterStream
  let noise: CounterStream
  let latent: CounterStream
  private let isValidation: Bool

  /// Validation noise and timesteps do not depend on the run's seed: losses of different runs compare.
  static let validationSeed: UInt64 = 0x7661_6C69_6461_7465

  init(_ configuration: SamplingConfiguration, position: UInt64, split: DataSplit) {
    self.configuration = configuration
    isValidation = split == .validation
    let seed = isValidation ? Self.validationSeed : configuration.seed
    func stream(_ purpose: Purpose) -> CounterStream { CounterStream(seed: seed, purpose: purpose, stream: position) }
    order = stream(.captionOrder)
    dropout = stream(.captionDropout)
    timestep = stream(isValidation ? .validationTimestep : .timestep)
    noise = stream(isValidation ? .validationNoise : .noise)
    latent = stream(.latentSample)
  }

  /// Whether the caption of pair `ordinal` is removed.
  func dropsCaption(_ ordinal: Int) -> Bool {
    !isValidation && dropout.uniform(UInt64(ordinal)) < configuration.captionDropout
  }

  func decision(_ ordinal: Int) -> PairDecision {
    let captionFirst = isValidation || order.uniform(UInt64(ordinal)) < configuration.captionFirst
    let dropsCaption = dropsCaption(ordinal)
    let limited = configuration.limitNoiseImageFirst && !captionFirst && !dropsCaption
    let levels = limited ? SamplingConfiguration.limitedNoiseLevel + 1 : SamplingConfiguration.noiseLevels
    return PairDecision(
      captionFirst: captionFirst, dropsCaption: dropsCaption,
      timestep: Int32(timestep.integer(UInt64(ordinal), below: levels)))
  }
}
