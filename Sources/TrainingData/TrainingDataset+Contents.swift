import Digests
import Foundation

/// One document of a sequence, to look at.
public struct DocumentContents: Hashable, Sendable {
  /// Number of the document in its source and split.
  public var document: UInt64
  /// Caption or text tokens, special ones not included.
  public var tokens: [Int32]
  /// The picture of a pair.
  public var image: RGBImage?
  /// Whether it begins or ends in the middle of a longer text.
  public var startsInside: Bool
  public var endsInside: Bool
}

extension TrainingDataset {
  /// The documents that make up a sequence, in order.
  public func contents(_ source: DataSource, _ split: DataSplit, sequence: UInt64) throws(DataError)
    -> [DocumentContents]
  {
    let count = sequenceCount(source, split)
    guard sequence < count else {
      throw .impossible(
        setting: "--sequence \(sequence)", reason: "there are \(count) \(split.rawValue) \(source.rawValue) sequences")
    }
    let set = try documents(source, split)
    var result: [DocumentContents] = []
    for segment in try segments(source, split, sequence) {
      // Before memory is asked for: a damaged segment may claim billions.
      let length = try set.length(segment.document)
      guard Int(segment.count) <= length else {
        throw .damaged(path: directory, reason: "a segment reaches beyond document \(segment.document)")
      }
      var tokens = [Int32](repeating: 0, count: Int(segment.count))
      var problem: DataError?
      tokens.withUnsafeMutableBufferPointer { buffer in
        guard let base = buffer.baseAddress else { return }
        do throws(DataError) { try set.copy(segment, vocabulary: vocabulary, into: base) } catch { problem = error }
      }
      if let problem { throw problem }
      let image = source == .images ? description.codec.image(stored: try set.latent(segment.document)) : nil
      result.append(
        DocumentContents(
          document: segment.document, tokens: tokens, image: image, startsInside: segment.start > 0,
          endsInside: !segment.ends))
    }
    return result
  }

  /// Reads every file again and compares it with the description.
  /// - Throws: `DataError.damaged` for the first file whose bytes have changed.
  public func verify(progress: (PreparationProgress) -> Void = { _ in }) throws(DataError) {
    let folder = PackedIndexDescription.directory(in: directory, sequenceLength: sequenceLength, patch: patch)
    var files = description.sets.flatMap(\.files).map { (directory + "/" + $0.name, $0) }
    files.append((tokenizerPath, description.tokenizerFile))
    files += index.sets.flatMap { [$0.sequenceFile, $0.segmentFile] }.map { (folder + "/" + $0.name, $0) }
    let total = files.reduce(0) { $0 + $1.1.sizeBytes }
    var completed: UInt64 = 0
    for (path, file) in files {
      var reader = try FileReader(path: path)
      var digest = SHA256()
      while true {
        let bytes = try reader.bytes(1 << 20)
        if bytes.isEmpty { break }
        digest.update(bytes)
        completed += UInt64(bytes.count)
        progress(PreparationProgress(phase: "verifying", unit: .bytes, completed: completed, total: total))
      }
      guard digest.finish().hexadecimal == file.sha256 else {
        throw .damaged(path: path, reason: "its SHA-256 is not the one it was written with")
      }
    }
  }
}
