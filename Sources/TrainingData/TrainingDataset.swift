import Foundation

/// Prepared documents opened with the packed index of one sequence length and patch size.
///
/// Everything is mapped, nothing is read ahead; all members may be used from any thread.
public final class TrainingDataset: Sendable {
  public let directory: String
  public let description: DocumentsDescription
  public let index: PackedIndexDescription
  private let documents: [Part: DocumentSet]
  private let sequences: [Part: SequenceSet]

  private struct Part: Hashable {
    var source: DataSource
    var split: DataSplit
  }

  /// Names documents, index and latents of this data: equal fingerprints are equal bytes. A resume checks it.
  public var fingerprint: String { index.fingerprint }
  /// V
  public var vocabulary: Int { description.vocabulary }
  public var special: SpecialTokens { description.special }
  public var channels: Int { description.codec.channels }
  /// Height and width of a latent.
  public var latentSize: Int { description.codec.latentSize }
  public var patch: Int { index.patch }
  public var sequenceLength: Int { index.sequenceLength }
  /// P
  public var patchesPerImage: Int { (latentSize / patch) * (latentSize / patch) }
  /// Most images in one sequence of any source and split.
  public var mostImagesPerSequence: Int { index.sets.map(\.mostImages).max() ?? 0 }
  public var tokenizerPath: String { directory + "/" + DocumentsDescription.tokenizerFileName }

  /// Opens a documents directory.
  /// - Throws: `DataError.noIndex` when it was never packed for this shape (the message names the command that does
  ///   it), `DataError.notPrepared`, `DataError.damaged`.
  public static func open(directory: String, sequenceLength: Int, patch: Int) throws(DataError) -> TrainingDataset {
    try TrainingDataset(directory: directory, sequenceLength: sequenceLength, patch: patch)
  }

  private init(directory: String, sequenceLength: Int, patch: Int) throws(DataError) {
    let description = try DocumentsDescription.read(directory: directory)
    let index = try PackedIndexDescription.read(
      documents: directory, fingerprint: description.fingerprint, sequenceLength: sequenceLength, patch: patch)
    guard patch > 0, description.codec.latentSize % patch == 0 else {
      throw .damaged(path: directory, reason: "patch \(patch) does not divide its latents")
    }
    let folder = PackedIndexDescription.directory(in: directory, sequenceLength: sequenceLength, patch: patch)
    var documents: [Part: DocumentSet] = [:]
    var sequences: [Part: SequenceSet] = [:]
    for set in description.sets {
      documents[Part(source: set.source, split: set.split)] =
        try DocumentSet(directory: directory, description: description, set: set)
    }
    for set in index.sets {
      sequences[Part(source: set.source, split: set.split)] =
        try SequenceSet(directory: folder, length: sequenceLength, set: set)
    }
    self.directory = directory
    self.description = description
    self.index = index
    self.documents = documents
    self.sequences = sequences
  }

  /// Sequences of a source and split.
  public func sequenceCount(_ source: DataSource, _ split: DataSplit) -> UInt64 {
    sequences[Part(source: source, split: split)]?.count ?? 0
  }

  func documents(_ source: DataSource, _ split: DataSplit) throws(DataError) -> DocumentSet {
    guard let set = documents[Part(source: source, split: split)] else { throw missing(source, split) }
    return set
  }

  /// The segments of a sequence.
  func segments(_ source: DataSource, _ split: DataSplit, _ sequence: UInt64) throws(DataError) -> [Segment] {
    guard let set = sequences[Part(source: source, split: split)] else { throw missing(source, split) }
    return try set.segments(sequence)
  }

  func missing(_ source: DataSource, _ split: DataSplit) -> DataError {
    let option = (split == .validation ? "--validation-" : "--") + source.rawValue
    return .impossible(
      setting: directory, reason: "holds no \(split.rawValue) \(source.rawValue): prepare it with \(option) FILE")
  }

  /// The tokenizer that made the documents.
  public func loadTokenizer() throws(DataError) -> Tokenizer { try Tokenizer.load(path: tokenizerPath) }
}
