import ClusterModel
import Digests
import Foundation

/// One worker's file of a checkpoint: complete, read back and on disk, but not committed.
public struct PartRecord: Hashable, Sendable {
  public struct Tensor: Hashable, Sendable {
    public var path: String
    public var shape: [Int]
    /// SHA-256 of the little-endian row-major bytes, hexadecimal.
    public var sha256: String
    public init(path: String, shape: [Int], sha256: String) {
      self.path = path
      self.shape = shape
      self.sha256 = sha256
    }
  }
  public var step: Step
  /// Name inside the checkpoint's directory.
  public var file: String
  public var sizeBytes: UInt64
  public var sha256: String
  public var tensors: [Tensor]
  public init(step: Step, file: String, sizeBytes: UInt64, sha256: String, tensors: [Tensor]) {
    self.step = step
    self.file = file
    self.sizeBytes = sizeBytes
    self.sha256 = sha256
    self.tensors = tensors
  }
}

/// What a checkpoint records besides its tensors.
public struct CheckpointContext: Hashable, Sendable {
  public var run: RunID
  public var generation: Generation
  /// The resolved configuration, as text.
  public var configuration: String
  public var data: DataPosition
  /// `Device.fingerprint` of the workers.
  public var device: String
  public var precision: String
  public init(
    run: RunID, generation: Generation, configuration: String, data: DataPosition, device: String, precision: String
  ) {
    self.run = run
    self.generation = generation
    self.configuration = configuration
    self.data = data
    self.device = device
    self.precision = precision
  }
}

/// Where the stream of samples stands, and which data it is.
public struct DataPosition: Hashable, Sendable, Codable {
  /// Global position of the first sample that the state has not seen.
  public var nextSample: UInt64
  public var fingerprint: String
  public init(nextSample: UInt64, fingerprint: String) {
    self.nextSample = nextSample
    self.fingerprint = fingerprint
  }
}

/// The manifest of a checkpoint, `manifest.json`: its presence is the commit.
public struct CheckpointManifest: Hashable, Sendable, Codable {
  public struct File: Hashable, Sendable, Codable {
    public var sizeBytes: UInt64
    public var sha256: String
  }
  public struct Tensor: Hashable, Sendable, Codable {
    public var file: String
    public var shape: [Int]
    public var sha256: String
  }

  public static let currentFormat = 1
  /// Manifests above this are refused unread; one of a thousand tensors has a quarter of a mebibyte.
  public static let limitBytes: UInt64 = 64 << 20

  public var formatVersion: Int
  public var run: String
  public var step: Step
  public var generation: UInt64
  public var configuration: String
  public var data: DataPosition
  public var device: String
  public var precision: String
  /// Files by name.
  public var files: [String: File]
  /// Tensors by path.
  public var tensors: [String: Tensor]
  /// ``StateDigest`` of step and tensors, hexadecimal.
  public var digest: String
  /// SHA-256 of the manifest's own bytes, with these digits replaced by zeros.
  public var manifestSHA256: String

  /// Paths in byte order.
  public var tensorPaths: [String] {
    tensors.keys.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }
  public var fileNames: [String] { files.keys.sorted() }
  /// Bytes of all files together.
  public var sizeBytes: UInt64 { files.values.reduce(0) { $0 &+ $1.sizeBytes } }
  /// The digest that step and tensor records imply.
  var impliedDigest: String {
    StateDigest.digest(step: step, tensors: tensors.map { ($0.key, $0.value.shape, $0.value.sha256) }).hexadecimal
  }
}

extension CheckpointManifest {
  private static let ownHashKey = Array("\"manifestSHA256\"".utf8)
  private static let noHash = String(repeating: "0", count: 2 * SHA256Digest.byteCount)

  /// The manifest of a set of parts that were written; checks that they fit together.
  package init(step: Step, parts: [PartRecord], context: CheckpointContext) throws(CheckpointError) {
    func require(_ condition: Bool, _ reason: @autoclosure () -> String) throws(CheckpointError) {
      guard condition else { throw .invalidPart(step: step, reason: reason()) }
    }
    try require(!parts.isEmpty, "there are no parts")
    var files: [String: File] = [:]
    var tensors: [String: Tensor] = [:]
    for part in parts {
      try require(part.step == step, "\(part.file) is of step \(part.step)")
      try require(CheckpointNames.isPartFile(part.file), "'\(part.file)' is not the name of a part")
      try require(SHA256Digest(hexadecimal: part.sha256) != nil, "\(part.file) has no SHA-256")
      try require(
        files.updateValue(File(sizeBytes: part.sizeBytes, sha256: part.sha256), forKey: part.file) == nil,
        "\(part.file) was written twice")
      for tensor in part.tensors {
        try require(CheckpointNames.isTensorPath(tensor.path), "'\(tensor.path)' is not the path of a tensor")
        try require(TensorShape.byteCount(tensor.shape) != nil, "\(tensor.path) has the shape \(tensor.shape)")
        try require(SHA256Digest(hexadecimal: tensor.sha256) != nil, "\(tensor.path) has no SHA-256")
        let record = Tensor(file: part.file, shape: tensor.shape, sha256: tensor.sha256)
        let other = tensors.updateValue(record, forKey: tensor.path)
        try require(other == nil, "\(tensor.path) is in both \(other?.file ?? "") and \(part.file)")
      }
    }
    self.init(
      formatVersion: Self.currentFormat, run: context.run.text, step: step, generation: context.generation.number,
      configuration: context.configuration, data: context.data, device: context.device, precision: context.precision,
      files: files, tensors: tensors, digest: "", manifestSHA256: Self.noHash)
    digest = impliedDigest
  }

  /// The bytes of `manifest.json`: JSON with sorted keys, carrying its own hash.
  package func encoded() throws(CheckpointError) -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    var unsigned = self
    unsigned.manifestSHA256 = Self.noHash
    guard let data = try? encoder.encode(unsigned) else {
      throw .invalidPart(step: step, reason: "the manifest cannot be written as JSON")
    }
    var bytes = [UInt8](data) + [UInt8(ascii: "\n")]
    guard let range = Self.ownHashRange(bytes) else {
      throw .invalidPart(step: step, reason: "a name in the manifest is that of a field")
    }
    bytes.replaceSubrange(range, with: Array(SHA256.digest(of: bytes).hexadecimal.utf8))
    return bytes
  }

  /// Reads a manifest and checks all that can be checked without the files.
  package init(bytes: [UInt8], step: Step) throws(CheckpointProblem) {
    guard let range = Self.ownHashRange(bytes) else { throw .malformed(reason: "it does not carry its SHA-256") }
    let expected = String(decoding: bytes[range], as: UTF8.self)
    var unsigned = bytes
    unsigned.replaceSubrange(range, with: Array(Self.noHash.utf8))
    let found = SHA256.digest(of: unsigned).hexadecimal
    guard found == expected else { throw .wrongHash(expected: expected, found: found) }
    let decoded: CheckpointManifest
    do { decoded = try JSONDecoder().decode(CheckpointManifest.self, from: Data(bytes)) } catch {
      throw .malformed(reason: "it cannot be understood (\(Self.reason(error)))")
    }
    self = decoded
    try validate(step: step)
  }

  /// Where the 64 digits of the manifest's own hash are: the key may occur once only. Inside a JSON text a
  /// quotation mark is escaped, so no value can pass for the key unless it equals it.
  private static func ownHashRange(_ bytes: [UInt8]) -> Range<Int>? {
    var found: Int?
    var index = 0
    while index + ownHashKey.count <= bytes.count {
      if bytes[index] == ownHashKey[0] && bytes[index..<index + ownHashKey.count].elementsEqual(ownHashKey) {
        guard found == nil else { return nil }
        found = index + ownHashKey.count
      }
      index += 1
    }
    guard var start = found else { return nil }
    while start < bytes.count && (bytes[start] == UInt8(ascii: " ") || bytes[start] == UInt8(ascii: ":")) { start += 1 }
    guard start < bytes.count, bytes[start] == UInt8(ascii: "\"") else { return nil }
    let range = start + 1..<start + 1 + noHash.utf8.count
    return range.upperBound < bytes.count && bytes[range.upperBound] == UInt8(ascii: "\"") ? range : nil
  }

  private static func reason(_ error: any Error) -> String {
    switch error {
    case DecodingError.keyNotFound(let key, _): "no \(key.stringValue)"
    case DecodingError.typeMismatch(_, let context), DecodingError.valueNotFound(_, let context),
      DecodingError.dataCorrupted(let context):
      context.codingPath.map(\.stringValue).joined(separator: ".") + ": " + context.debugDescription
    default: "not JSON"
    }
  }

  private func validate(step: Step) throws(CheckpointProblem) {
    func require(_ condition: Bool, _ reason: @autoclosure () -> String) throws(CheckpointProblem) {
      guard condition else { throw .malformed(reason: reason()) }
    }
    try require(
      formatVersion == Self.currentFormat,
      "its format is \(formatVersion), and this program reads \(Self.currentFormat); use the program that wrote it")
    try require(self.step == step, "it is of step \(self.step)")
    for name in fileNames {
      try require(CheckpointNames.isPartFile(name), "'\(name.prefix(200))' is not the name of a part")
      try require(SHA256Digest(hexadecimal: files[name]?.sha256 ?? "") != nil, "\(name) has no SHA-256")
    }
    for path in tensorPaths {
      try require(CheckpointNames.isTensorPath(path), "'\(path.prefix(200))' is not the path of a tensor")
      guard let tensor = tensors[path] else { continue }
      try require(SHA256Digest(hexadecimal: tensor.sha256) != nil, "\(path) has no SHA-256")
      guard let file = files[tensor.file] else { throw .malformed(reason: "\(path) is in no file of it") }
      guard let bytes = TensorShape.byteCount(tensor.shape), UInt64(bytes) <= file.sizeBytes else {
        throw .malformed(reason: "\(path) has the shape \(tensor.shape), more than \(tensor.file) can hold")
      }
    }
    let implied = impliedDigest
    guard implied == digest else { throw .wrongDigest(expected: digest, found: implied) }
  }
}
