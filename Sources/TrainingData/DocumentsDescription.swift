import Digests
import Foundation

/// What `meta.json` of a documents directory says.
public struct DocumentsDescription: Hashable, Sendable, Codable {
  /// The documents of one source and split.
  public struct DocumentSet: Hashable, Sendable, Codable {
    public var source: DataSource
    public var split: DataSplit
    public var documents: UInt64
    /// Text tokens, special ones not counted.
    public var tokens: UInt64
    /// Samples left out because they were invalid.
    public var skipped: UInt64
    /// Little-endian tokens of all documents one after another.
    public var tokenFile: StoredFile
    /// documents + 1 UInt64: the token at which each document starts (for a pair: its caption's boundaries).
    public var offsetFile: StoredFile
    /// `PixelCodec.storedBytes` bytes per document of an image source.
    public var latentFile: StoredFile?

    var files: [StoredFile] { [tokenFile, offsetFile] + (latentFile.map { [$0] } ?? []) }
  }

  public var format = DocumentsDescription.formatName
  public var version = DocumentsDescription.currentVersion
  /// SHA-256 over everything below and the content of every file.
  public var fingerprint = ""
  public var vocabulary: Int
  public var special: SpecialTokens
  /// Bytes of a stored token: 2 for vocabularies up to 65,536, otherwise 4.
  public var tokenBytes: Int
  public var tokenizerFile: StoredFile
  public var codec: PixelCodec
  public var sets: [DocumentSet]

  public static let formatName = "transfusion-documents"
  public static let currentVersion = 1
  static let fileName = "meta.json"
  static let tokenizerFileName = "tokenizer.model"

  public func documentSet(_ source: DataSource, _ split: DataSplit) -> DocumentSet? {
    sets.first { $0.source == source && $0.split == split }
  }

  /// The fingerprint that belongs to the other fields.
  package func computedFingerprint() -> String {
    var text = "\(format)-v\(version)\nvocabulary \(vocabulary)\n"
    text += "special \(special.padding) \(special.bos) \(special.eos) \(special.boi) \(special.eoi)\n"
    text += "tokenizer \(tokenizerFile.sha256)\ncodec pixels \(codec.latentSize) \(codec.mean) \(codec.deviation)\n"
    for set in sets {
      text += "\(set.split.rawValue) \(set.source.rawValue) \(set.documents) \(set.tokens)\n"
      for file in set.files { text += "\(file.sizeBytes) \(file.sha256)\n" }
    }
    return SHA256.digest(of: text).hexadecimal
  }

  /// Reads and checks a directory's description.
  /// - Throws: `DataError.notPrepared` where there is none, `DataError.damaged` when it contradicts itself.
  public static func read(directory: String) throws(DataError) -> DocumentsDescription {
    let path = directory + "/" + fileName
    guard FileManager.default.fileExists(atPath: path) else { throw .notPrepared(directory: directory) }
    let found: DocumentsDescription = try JSONFile.read(path)
    guard found.format == formatName, found.version == currentVersion else {
      throw .damaged(path: path, reason: "its format is \(found.format) \(found.version), not \(formatName) 1")
    }
    guard found.fingerprint == found.computedFingerprint() else {
      throw .damaged(path: path, reason: "its fingerprint does not belong to what it describes")
    }
    let special = [found.special.padding, found.special.bos, found.special.eos, found.special.boi, found.special.eoi]
    guard found.tokenBytes == 2 || found.tokenBytes == 4, found.codec.latentSize > 0, found.codec.latentSize <= 1 << 14,
      found.codec.mean.count == 3, found.codec.deviation.count == 3, found.codec.deviation.allSatisfy({ $0 > 0 }),
      found.vocabulary > 0, found.vocabulary <= Int(Int32.max),
      special.allSatisfy({ $0 >= 0 && $0 < found.vocabulary }), found.sets.flatMap(\.files).allSatisfy(\.isPlain)
    else { throw .damaged(path: path, reason: "its numbers are impossible") }
    return found
  }
}

/// JSON descriptions: sorted keys, so that equal descriptions are equal files.
enum JSONFile {
  static func read<Value: Decodable>(_ path: String) throws(DataError) -> Value {
    var reader = try FileReader(path: path)
    guard reader.sizeBytes <= 1 << 24 else { throw .damaged(path: path, reason: "it is too large") }
    let bytes = try reader.bytes(Int(reader.sizeBytes))
    do {
      return try JSONDecoder().decode(Value.self, from: Data(bytes))
    } catch {
      throw .damaged(path: path, reason: "it is not the JSON that was written")
    }
  }

  static func write(_ value: some Encodable, to path: String) throws(DataError) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    let data: Data
    do { data = try encoder.encode(value) } catch { preconditionFailure("descriptions always encode: \(error)") }
    var writer = try FileWriter(path: path)
    try writer.append(data)
    _ = try writer.finish()
  }
}
