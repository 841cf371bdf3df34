import Digests
import Foundation

/// What `index.json` of one packed index says: which documents make up each sequence of one length and patch size.
public struct PackedIndexDescription: Hashable, Sendable, Codable {
  /// The sequences of one source and split.
  public struct SequenceSet: Hashable, Sendable, Codable {
    public var source: DataSource
    public var split: DataSplit
    public var sequences: UInt64
    public var segments: UInt64
    /// Target tokens with every caption kept, images, and positions left empty, over all sequences.
    public var targets: UInt64
    public var images: UInt64
    public var padding: UInt64
    /// Most images in one sequence.
    public var mostImages: Int
    /// Captions that were cut to fit beside their image.
    public var cutCaptions: UInt64
    /// sequences + 1 UInt64: the segment at which each sequence starts.
    public var sequenceFile: StoredFile
    /// Per segment: document UInt64, first token UInt32, tokens UInt32 (highest bit: no EOS follows).
    public var segmentFile: StoredFile
  }

  public var format = PackedIndexDescription.formatName
  public var version = PackedIndexDescription.currentVersion
  /// SHA-256 over everything below and the content of every file: with the documents' own it names the data of a run.
  public var fingerprint = ""
  public var documentsFingerprint: String
  public var sequenceLength: Int
  public var patch: Int
  public var sets: [SequenceSet]

  public static let formatName = "transfusion-index"
  public static let currentVersion = 1
  static let fileName = "index.json"
  static let directoryPrefix = "index-"

  public func sequenceSet(_ source: DataSource, _ split: DataSplit) -> SequenceSet? {
    sets.first { $0.source == source && $0.split == split }
  }

  static func directory(in documents: String, sequenceLength: Int, patch: Int) -> String {
    "\(documents)/\(directoryPrefix)length\(sequenceLength)-patch\(patch)"
  }

  package func computedFingerprint() -> String {
    var text = "\(format)-v\(version)\n\(documentsFingerprint)\nlength \(sequenceLength) patch \(patch)\n"
    for set in sets {
      text += "\(set.split.rawValue) \(set.source.rawValue) \(set.sequences) \(set.segments) \(set.mostImages)\n"
      text += "\(set.sequenceFile.sha256) \(set.segmentFile.sha256)\n"
    }
    return SHA256.digest(of: text).hexadecimal
  }

  /// Reads the index of a shape.
  /// - Throws: `DataError.noIndex` where there is none; its message names the command that makes it.
  static func read(documents directory: String, fingerprint: String, sequenceLength: Int, patch: Int)
    throws(DataError) -> PackedIndexDescription
  {
    let folder = Self.directory(in: directory, sequenceLength: sequenceLength, patch: patch)
    let path = folder + "/" + fileName
    guard FileManager.default.fileExists(atPath: path) else {
      throw .noIndex(
        directory: directory, sequenceLength: sequenceLength, patch: patch,
        available: shapes(in: directory).map(\.description))
    }
    let found: PackedIndexDescription = try JSONFile.read(path)
    guard found.format == formatName, found.version == currentVersion, found.sequenceLength == sequenceLength,
      found.patch == patch, found.fingerprint == found.computedFingerprint(),
      found.sets.allSatisfy({ $0.mostImages >= 0 && $0.mostImages <= sequenceLength }),
      found.sets.allSatisfy({ $0.sequenceFile.isPlain && $0.segmentFile.isPlain })
    else { throw .damaged(path: path, reason: "it contradicts itself") }
    guard found.documentsFingerprint == fingerprint else {
      throw .damaged(path: path, reason: "it was made for other documents: remove \(folder) and make it again")
    }
    return found
  }

  /// What sequences of an index look like.
  public struct Shape: Hashable, Sendable, CustomStringConvertible {
    public var sequenceLength: Int
    public var patch: Int
    public init(sequenceLength: Int, patch: Int) {
      self.sequenceLength = sequenceLength
      self.patch = patch
    }
    public var description: String { "length \(sequenceLength) patch \(patch)" }
  }

  /// The shapes that a documents directory has indexes for, ascending.
  public static func shapes(in directory: String) -> [Shape] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
    return names.compactMap { name in
      guard let found = name.wholeMatch(of: /index-length([0-9]{1,9})-patch([0-9]{1,9})/),
        let length = Int(found.1), let patch = Int(found.2)
      else { return nil }
      return Shape(sequenceLength: length, patch: patch)
    }
    .sorted { ($0.sequenceLength, $0.patch) < ($1.sequenceLength, $1.patch) }
  }
}

/// The mapped sequences of one source and split.
final class SequenceSet: Sendable {
  let count: UInt64
  private let starts: MappedFile
  private let segments: MappedFile
  private let length: Int

  init(directory: String, length: Int, set: PackedIndexDescription.SequenceSet) throws(DataError) {
    count = set.sequences
    self.length = length
    starts = try MappedFile(
      path: directory + "/" + set.sequenceFile.name, expectedBytes: set.sequenceFile.sizeBytes)
    segments = try MappedFile(path: directory + "/" + set.segmentFile.name, expectedBytes: set.segmentFile.sizeBytes)
    guard set.sequences < 1 << 60, set.segments < 1 << 58, UInt64(starts.count) == (set.sequences + 1) * 8,
      UInt64(segments.count) == set.segments * UInt64(Segment.sizeBytes)
    else { throw .damaged(path: starts.path, reason: "its size does not fit \(set.sequences) sequences") }
  }

  /// The segments of a sequence, in the order in which they stand in it.
  func segments(_ sequence: UInt64) throws(DataError) -> [Segment] {
    guard sequence < count else {
      throw .damaged(path: starts.path, reason: "sequence \(sequence) lies outside its \(count)")
    }
    let start: UInt64 = try starts.integer(Int(sequence))
    let end: UInt64 = try starts.integer(Int(sequence) + 1)
    guard start < end, end <= UInt64(segments.count / Segment.sizeBytes), end - start <= UInt64(length) else {
      throw .damaged(path: starts.path, reason: "sequence \(sequence) is said to be segments \(start) to \(end)")
    }
    var result: [Segment] = []
    result.reserveCapacity(Int(end - start))
    for index in Int(start)..<Int(end) {
      let document: UInt64 = try segments.integer(2 * index)
      let first: UInt32 = try segments.integer(4 * index + 2)
      let count: UInt32 = try segments.integer(4 * index + 3)
      result.append(
        Segment(document: document, start: first, count: count & Segment.mostTokens, ends: count >> 31 == 0))
    }
    return result
  }
}
