import Digests
import Foundation

/// What `transfusion data prepare` is asked to do.
public struct PreparationSettings: Hashable, Sendable {
  /// Where the model's vocabulary comes from.
  public enum Vocabulary: Hashable, Sendable {
    case trained(pieces: Int)
    case file(String)
  }

  /// The documents directory to make.
  public var output: String
  /// WebDataset archives.
  public var images: [String]
  /// JSON Lines and plain text files.
  public var text: [String]
  public var validationImages: [String]
  public var validationText: [String]
  public var vocabulary: Vocabulary
  /// Height and width of the stored pixels.
  public var imageSize: Int
  public var sequenceLength: Int
  public var patch: Int
  /// Leave out samples that are invalid instead of stopping at the first; they are counted.
  public var skipInvalid: Bool
  /// Text that a tokenizer is trained on, at most: 1 KiB per piece unless told. A choice spread evenly over the
  /// sources is made where there is more.
  public var tokenizerSampleBytes: Int?

  public init(
    output: String, images: [String] = [], text: [String] = [], validationImages: [String] = [],
    validationText: [String] = [], vocabulary: Vocabulary = .trained(pieces: 4096), imageSize: Int = 32,
    sequenceLength: Int = 256, patch: Int = 4, skipInvalid: Bool = false, tokenizerSampleBytes: Int? = nil
  ) {
    self.output = Folder.plain(output)
    self.images = images
    self.text = text
    self.validationImages = validationImages
    self.validationText = validationText
    self.vocabulary = vocabulary
    self.imageSize = imageSize
    self.sequenceLength = sequenceLength
    self.patch = patch
    self.skipInvalid = skipInvalid
    self.tokenizerSampleBytes = tokenizerSampleBytes
  }

  func files(_ source: DataSource, _ split: DataSplit) -> [String] {
    switch (source, split) {
    case (.images, .train): images
    case (.text, .train): text
    case (.images, .validation): validationImages
    case (.text, .validation): validationText
    }
  }
}

/// Turns sources into a documents directory with its first packed index.
public struct Preparation {
  let settings: PreparationSettings
  let progress: (PreparationProgress) -> Void

  /// Reads the sources, one batch in memory at a time, and writes the documents directory.
  ///
  /// Everything is written beside the output and renamed when it is whole; an output that exists is left alone.
  /// - Throws: the first `DataError`; with `skipInvalid` those about one sample are counted instead.
  public static func run(_ settings: PreparationSettings, progress: @escaping (PreparationProgress) -> Void = { _ in })
    throws(DataError) -> DocumentsDescription
  {
    try Preparation(settings: settings, progress: progress).run()
  }

  private func run() throws(DataError) -> DocumentsDescription {
    guard !FileManager.default.fileExists(atPath: settings.output) else {
      throw .outputExists(path: settings.output)
    }
    guard !settings.images.isEmpty || !settings.text.isEmpty else {
      throw .impossible(setting: "--images, --text", reason: "name at least one training source")
    }
    guard (1...4096).contains(settings.imageSize) else {
      throw .impossible(setting: "--image-size \(settings.imageSize)", reason: "choose between 1 and 4096")
    }
    guard settings.patch > 0, settings.imageSize % settings.patch == 0 else {
      throw .impossible(
        setting: "--patch \(settings.patch)", reason: "does not divide the image size of \(settings.imageSize)")
    }
    let partial = settings.output + ".partial"
    try Folder.remove(partial)
    try Folder.create(partial)
    do throws(DataError) {
      let description = try fill(directory: partial)
      try Folder.rename(partial, to: settings.output)
      return description
    } catch {
      try? Folder.remove(partial)  // the error that is thrown matters more than what stays behind
      throw error
    }
  }

  private func fill(directory partial: String) throws(DataError) -> DocumentsDescription {
    let tokenizer = try makeTokenizer()
    var tokenizerFile = try FileWriter(path: partial + "/" + DocumentsDescription.tokenizerFileName)
    try tokenizerFile.append(tokenizer.model)
    let tokenBytes = tokenizer.vocabulary <= 1 << 16 ? 2 : 4
    var statistics = PixelStatistics()
    var sets: [DocumentsDescription.DocumentSet] = []
    for split in DataSplit.allCases {
      for source in DataSource.allCases where !settings.files(source, split).isEmpty {
        let writer = try DocumentSetWriter(
          directory: partial, source: source, split: split, tokenBytes: tokenBytes)
        try fill(writer, tokenizer: tokenizer, statistics: &statistics)
        let set = try writer.finish()
        guard set.documents > 0 else {
          throw .unusableSource(
            path: settings.files(source, split).joined(separator: ", "), reason: "holds no usable sample")
        }
        sets.append(set)
      }
    }
    var description = DocumentsDescription(
      vocabulary: tokenizer.vocabulary, special: tokenizer.special, tokenBytes: tokenBytes,
      tokenizerFile: try tokenizerFile.finish(), codec: statistics.codec(latentSize: settings.imageSize), sets: sets)
    description.fingerprint = description.computedFingerprint()
    try JSONFile.write(description, to: partial + "/" + DocumentsDescription.fileName)
    _ = try PackedIndexDescription.build(
      directory: partial, sequenceLength: settings.sequenceLength, patch: settings.patch, progress: progress)
    return description
  }

  private func makeTokenizer() throws(DataError) -> Tokenizer {
    switch settings.vocabulary {
    case .file(let path): return try Tokenizer.load(path: path)
    case .trained(let pieces):
      var sample = TextSample(mostBytes: settings.tokenizerSampleBytes ?? pieces * 1024)
      for source in DataSource.allCases {
        // Images are not decoded here, so only their captions can be found invalid.
        _ = try forEachBatch(settings.files(source, .train), source, phase: "reading text for the tokenizer") {
          batch throws(DataError) in
          for item in batch { sample.offer(item.text) }
        }
      }
      progress(
        PreparationProgress(
          phase: "training the tokenizer", unit: .bytes, completed: 0, total: UInt64(sample.sizeBytes)))
      let tokenizer = try Tokenizer.train(vocabulary: pieces, on: sample)
      progress(
        PreparationProgress(
          phase: "training the tokenizer", unit: .bytes, completed: UInt64(sample.sizeBytes),
          total: UInt64(sample.sizeBytes)))
      return tokenizer
    }
  }

  private func fill(_ writer: DocumentSetWriter, tokenizer: Tokenizer, statistics: inout PixelStatistics)
    throws(DataError)
  {
    let (source, split) = (writer.source, writer.split)
    let codec = PixelCodec(latentSize: settings.imageSize, mean: [0, 0, 0], deviation: [1, 1, 1])
    var invalid: UInt64 = 0
    let unreadable = try forEachBatch(
      settings.files(source, split), source, phase: "preparing \(split.rawValue) \(source.rawValue)"
    ) { batch throws(DataError) in
      for encoded in Parallel.map(batch, { Self.encode($0, tokenizer: tokenizer, codec: codec) }) {
        switch encoded {
        case .success(let document):
          try writer.append(document)
          if let latent = document.latent, split == .train { statistics.add(latent) }
        case .failure(let error):
          guard settings.skipInvalid && error.concernsOneSample else { throw error }
          invalid += 1
        }
      }
    }
    writer.skipped = unreadable + invalid
  }

  private static func encode(_ item: SourceItem, tokenizer: Tokenizer, codec: PixelCodec) -> Result<
    EncodedDocument, DataError
  > {
    do throws(DataError) {
      let tokens = try tokenizer.encode(item.text)
      guard let file = item.image else { return .success(EncodedDocument(tokens: tokens, latent: nil)) }
      let image: RGBImage
      do throws(DataError) { image = try RGBImage(decoding: file) } catch {
        throw .invalidSample(path: item.path, member: item.member, reason: error.description)
      }
      let size = codec.latentSize
      let pixels = image.centreCropped().resized(width: size, height: size)
      return .success(EncodedDocument(tokens: tokens, latent: codec.stored(pixels)))
    } catch { return .failure(error) }
  }

  /// Reads files in order and hands their samples over in bounded batches.
  /// - Returns: how many invalid samples were left out.
  private func forEachBatch(
    _ files: [String], _ source: DataSource, phase: String, body: ([SourceItem]) throws(DataError) -> Void
  ) throws(DataError) -> UInt64 {
    var total: UInt64 = 0
    for file in files { total += try FileReader(path: file).sizeBytes }
    var finished: UInt64 = 0
    var skipped: UInt64 = 0
    for file in files {
      var reader = try SourceReader(path: file, source: source)
      var batch: [SourceItem] = []
      var batchBytes = 0
      var more = true
      while more {
        do throws(DataError) {
          if let item = try reader.next() {
            batchBytes += item.text.utf8.count + (item.image?.count ?? 0)
            batch.append(item)
          } else {
            more = false
          }
        } catch {
          guard settings.skipInvalid && error.concernsOneSample else { throw error }
          skipped += 1
        }
        if !more || batch.count >= 1024 || batchBytes >= 1 << 26 {
          try body(batch)
          progress(
            PreparationProgress(phase: phase, unit: .bytes, completed: finished + reader.offset, total: total))
          batch.removeAll(keepingCapacity: true)
          batchBytes = 0
        }
      }
      finished += reader.sizeBytes
    }
    return skipped
  }
}
