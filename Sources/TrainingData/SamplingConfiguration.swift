/// How the samples of a run are drawn: with the data, all that decides what a microbatch holds.
public struct SamplingConfiguration: Hashable, Sendable, Codable {
  public var seed: UInt64
  /// B: microbatches of a step.
  public var microbatches: Int
  /// Sequences (rows) of a microbatch.
  public var sequencesPerMicrobatch: Int
  public var mix: SourceMix
  /// Share of pairs whose caption stands before the image (recipe: 80 %).
  public var captionFirst: Double
  /// Share of pairs whose caption is removed (recipe: 10 % [ours]).
  public var captionDropout: Double
  /// Whether image-first pairs draw their noise level from 0...500 only; pairs whose caption was dropped keep the
  /// full range [ours].
  public var limitNoiseImageFirst: Bool

  /// T: noise levels are 0..<1000.
  public static let noiseLevels: UInt32 = 1000
  /// The largest noise level of a limited pair.
  public static let limitedNoiseLevel: UInt32 = 500

  public init(
    seed: UInt64, microbatches: Int, sequencesPerMicrobatch: Int, mix: SourceMix = SourceMix(),
    captionFirst: Double = 0.8, captionDropout: Double = 0.1, limitNoiseImageFirst: Bool = false
  ) {
    self.seed = seed
    self.microbatches = microbatches
    self.sequencesPerMicrobatch = sequencesPerMicrobatch
    self.mix = mix
    self.captionFirst = captionFirst
    self.captionDropout = captionDropout
    self.limitNoiseImageFirst = limitNoiseImageFirst
  }

  /// - Throws: `DataError.impossible` for counts below 1, shares outside 0...1 and a mix of nothing.
  public func validate() throws(DataError) {
    guard microbatches > 0, sequencesPerMicrobatch > 0, microbatches <= 1 << 24, sequencesPerMicrobatch <= 1 << 24
    else {
      throw .impossible(
        setting: "microbatches \(microbatches) of \(sequencesPerMicrobatch) sequences",
        reason: "choose at least 1 of each")
    }
    for (name, share) in [("caption first", captionFirst), ("caption dropout", captionDropout)] {
      guard (0...1).contains(share) else {
        throw .impossible(setting: "\(name) \(share)", reason: "choose a share between 0 and 1")
      }
    }
    guard mix.images > 0 || mix.text > 0 else {
      throw .impossible(setting: "mix 0:0", reason: "give at least one source a share")
    }
  }
}

/// Which parts of a microbatch to make: the stages of a pipeline need different ones.
///
/// Rows, lengths, key intervals, patch positions and timesteps are always made.
public struct MicrobatchParts: OptionSet, Hashable, Sendable {
  public let rawValue: Int
  public init(rawValue: Int) { self.rawValue = rawValue }

  /// `Microbatch.tokens`
  public static let tokens = MicrobatchParts(rawValue: 1)
  /// `Microbatch.targetPositions` and `targetTokens`
  public static let targets = MicrobatchParts(rawValue: 2)
  /// `Microbatch.clean`
  public static let clean = MicrobatchParts(rawValue: 4)
  /// `Microbatch.noise`
  public static let noise = MicrobatchParts(rawValue: 8)

  public static let all: MicrobatchParts = [.tokens, .targets, .clean, .noise]
  /// What a first stage needs.
  public static let input: MicrobatchParts = [.tokens, .clean, .noise]
  /// What a last stage needs.
  public static let output: MicrobatchParts = [.targets, .noise]
}
