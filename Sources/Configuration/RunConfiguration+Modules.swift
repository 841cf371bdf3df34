import Optimizers
import TrainingData
import TransfusionModel

/// The data are there, but not those that the configuration describes.
public enum DataMismatch: Error, Equatable, CustomStringConvertible {
  case vocabulary(directory: String, pieces: Int, configured: Int)
  case image(directory: String, channels: Int, size: Int, configuredChannels: Int, configuredSize: Int)

  public var description: String {
    switch self {
    case .vocabulary(let directory, let pieces, let configured):
      "\(directory) was tokenized with a vocabulary of \(pieces), but model.vocabulary is \(configured): "
        + "set it to \(pieces) or more, or prepare the data with `--vocabulary \(configured)`"
    case .image(let directory, let channels, let size, let configuredChannels, let configuredSize):
      "\(directory) holds images of \(channels) channels and size \(size), but model.channels is "
        + "\(configuredChannels) and model.latent_size \(configuredSize)"
    }
  }
}

extension RunConfiguration {
  /// Opens the data and checks that they fit the model.
  ///
  /// - Throws: `DataError`, or ``DataMismatch`` for another vocabulary or image size.
  public func microbatchSource() throws -> MicrobatchSource {
    let dataset = try TrainingDataset.open(
      directory: data.directory, sequenceLength: data.sequenceLength, patch: model.patch)
    guard dataset.vocabulary <= model.vocabulary else {
      throw DataMismatch.vocabulary(
        directory: data.directory, pieces: dataset.vocabulary, configured: model.vocabulary)
    }
    guard data.imageShare == 0 || (dataset.channels == model.channels && dataset.latentSize == model.latentSize) else {
      throw DataMismatch.image(
        directory: data.directory, channels: dataset.channels, size: dataset.latentSize,
        configuredChannels: model.channels, configuredSize: model.latentSize)
    }
    return try MicrobatchSource(dataset: dataset, sampling: sampling)
  }

  public var sampling: SamplingConfiguration {
    // Shares in thousandths, as the smallest whole numbers with that ratio: 0.5 is 1 to 1.
    let images = UInt32((data.imageShare * 1000).rounded())
    let text = 1000 - images
    let divisor = max(1, greatestCommonDivisor(images, text))
    return SamplingConfiguration(
      seed: run.seed, microbatches: batch.microbatches, sequencesPerMicrobatch: batch.sequencesPerMicrobatch,
      mix: SourceMix(images: images / divisor, text: text / divisor), captionFirst: data.captionFirst,
      captionDropout: data.captionDropout, limitNoiseImageFirst: data.limitNoise)
  }

  public var adamW: AdamWConfiguration {
    AdamWConfiguration(
      beta1: optimizer.beta1, beta2: optimizer.beta2, epsilon: optimizer.epsilon, weightDecay: optimizer.weightDecay,
      clipNorm: optimizer.clipNorm, decayNormsAndBiases: optimizer.decayNormsAndBiases)
  }

  public var learningRate: LearningRateSchedule {
    LearningRateSchedule(
      peak: optimizer.peakLearningRate, floor: optimizer.finalLearningRate, warmupSteps: optimizer.warmupSteps,
      totalSteps: run.steps)
  }

  /// Sizes of a microbatch without looking at data: as many images as fit in its sequences.
  public var assumedLimits: MicrobatchLimits {
    let perSequence = data.imageShare == 0 ? 0 : data.sequenceLength / (model.patchesPerImage + 4)
    return MicrobatchLimits(
      rows: batch.sequencesPerMicrobatch, length: data.sequenceLength,
      images: perSequence * batch.sequencesPerMicrobatch)
  }

  private func greatestCommonDivisor(_ a: UInt32, _ b: UInt32) -> UInt32 {
    var (x, y) = (a, b)
    while y != 0 { (x, y) = (y, x % y) }
    return x
  }
}
