import Foundation
import Randomness

/// How far a long preparation has come.
public struct PreparationProgress: Hashable, Sendable {
  /// What is being done, in a few words.
  public var phase: String
  public var unit: Unit
  public var completed: UInt64
  public var total: UInt64

  /// What `completed` and `total` count.
  public enum Unit: String, Hashable, Sendable {
    case bytes
    case documents
  }
}

extension PackedIndexDescription {
  /// Makes the packed index of a sequence length and patch size beside the documents, and replaces one that is there.
  ///
  /// The index is written under another name and renamed when it is whole.
  public static func build(
    directory: String, sequenceLength: Int, patch: Int, progress: (PreparationProgress) -> Void = { _ in }
  ) throws(DataError) -> PackedIndexDescription {
    let description = try DocumentsDescription.read(directory: directory)
    let latentSize = description.codec.latentSize
    guard patch > 0, latentSize % patch == 0 else {
      throw .impossible(setting: "--patch \(patch)", reason: "does not divide the latent's \(latentSize) pixels a side")
    }
    let patches = (latentSize / patch) * (latentSize / patch)
    let cutter = SegmentCutter(length: sequenceLength, patchesPerImage: patches)
    let hasImages = description.sets.contains { $0.source == .images }
    guard sequenceLength >= 8, sequenceLength <= 1 << 24, !hasImages || cutter.mostCaptionTokens >= 1 else {
      let least = hasImages ? patches + SegmentCutter.pairFrame + 1 : 8
      throw .impossible(
        setting: "--sequence-length \(sequenceLength)",
        reason: "choose at least \(least)" + (hasImages ? " (an image has \(patches) patches) or a larger --patch" : "")
      )
    }
    let final = Self.directory(in: directory, sequenceLength: sequenceLength, patch: patch)
    let partial = final + ".partial"
    try Folder.remove(partial)
    try Folder.create(partial)
    var sets: [SequenceSet] = []
    for set in description.sets {
      let documents = try DocumentSet(directory: directory, description: description, set: set)
      sets.append(try pack(documents, set, cutter: cutter, into: partial, progress: progress))
    }
    var result = PackedIndexDescription(
      documentsFingerprint: description.fingerprint, sequenceLength: sequenceLength, patch: patch, sets: sets)
    result.fingerprint = result.computedFingerprint()
    try JSONFile.write(result, to: partial + "/" + fileName)
    try Folder.remove(final)
    try Folder.rename(partial, to: final)
    return result
  }

  private static func pack(
    _ documents: DocumentSet, _ set: DocumentsDescription.DocumentSet, cutter: SegmentCutter, into directory: String,
    progress: (PreparationProgress) -> Void
  ) throws(DataError) -> SequenceSet {
    let name = "\(directory)/\(set.split.rawValue)-\(set.source.rawValue)"
    var sequenceFile = try FileWriter(path: name + ".sequences")
    var segmentFile = try FileWriter(path: name + ".segments")
    let none = StoredFile(name: "", sizeBytes: 0, sha256: "")
    var result = SequenceSet(
      source: set.source, split: set.split, sequences: 0, segments: 0, targets: 0, images: 0, padding: 0,
      mostImages: 0, cutCaptions: 0, sequenceFile: none, segmentFile: none)

    func write(_ sequence: [Segment]) throws(DataError) {
      try sequenceFile.append(integer: result.segments)
      var filled = 0
      for segment in sequence {
        try segmentFile.append(integer: segment.document)
        try segmentFile.append(integer: segment.start)
        try segmentFile.append(integer: segment.count | (segment.ends ? 0 : 1 << 31))
        filled += cutter.positions(segment, source: set.source)
        result.targets += UInt64(
          SegmentCutter.targets(count: Int(segment.count), ends: segment.ends, source: set.source))
      }
      result.sequences += 1
      result.segments += UInt64(sequence.count)
      result.padding += UInt64(cutter.length - filled)
      if set.source == .images {
        result.images += UInt64(sequence.count)
        result.mostImages = max(result.mostImages, sequence.count)
      }
    }

    // Documents are packed in a fixed pseudo-random order [ours]: neighbours in a source are alike (one emoji in
    // several styles, one word's senses), and a sequence of them would be a poor sample.
    let order = IndexPermutation(
      count: documents.documents, stream: CounterStream(seed: 0, purpose: .permutation, stream: 1 << 61))
    var packer = SequencePacker(length: cutter.length)
    let phase = "packing \(set.split.rawValue) \(set.source.rawValue)"
    for position in 0..<documents.documents {
      if position % 16_384 == 0 {
        progress(
          PreparationProgress(phase: phase, unit: .documents, completed: position, total: documents.documents))
      }
      let document = order(position)
      let tokens = try documents.length(document)
      if set.source == .images && tokens > cutter.mostCaptionTokens { result.cutCaptions += 1 }
      for segment in cutter.segments(document: document, tokens: tokens, source: set.source) {
        let positions = cutter.positions(segment, source: set.source)
        if let full = packer.add(segment, positions: positions) { try write(full) }
      }
    }
    while let rest = packer.closeNext() { try write(rest) }
    try sequenceFile.append(integer: result.segments)
    result.sequenceFile = try sequenceFile.finish()
    result.segmentFile = try segmentFile.finish()
    progress(
      PreparationProgress(
        phase: phase, unit: .documents, completed: documents.documents, total: documents.documents))
    return result
  }
}

/// Directory operations with this module's errors.
enum Folder {
  /// The path without slashes at its end, so that another name can stand beside it.
  static func plain(_ path: String) -> String {
    var path = path
    while path.count > 1 && path.last == "/" { path.removeLast() }
    return path
  }

  static func create(_ path: String) throws(DataError) {
    do {
      try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    } catch { throw .io(operation: "create", path: path, code: code(error)) }
  }

  static func remove(_ path: String) throws(DataError) {
    guard FileManager.default.fileExists(atPath: path) else { return }
    do { try FileManager.default.removeItem(atPath: path) } catch {
      throw .io(operation: "remove", path: path, code: code(error))
    }
  }

  static func rename(_ path: String, to new: String) throws(DataError) {
    guard Foundation.rename(path, new) == 0 else { throw .io(operation: "rename", path: path, code: errno) }
  }

  private static func code(_ error: any Error) -> Int32 {
    let error = error as NSError
    let cause = (error.userInfo[NSUnderlyingErrorKey] as? NSError) ?? error
    return cause.domain == NSPOSIXErrorDomain ? Int32(cause.code) : EIO
  }
}
