import Digests
import Foundation

/// Sequential writing of one new file through a buffer, digesting what passes.
struct FileWriter: ~Copyable {
  let path: String
  private(set) var sizeBytes: UInt64 = 0
  private let descriptor: Int32
  private var buffer: [UInt8] = []
  private var digest: SHA256? = SHA256()

  private static let bufferBytes = 1 << 20

  init(path: String) throws(DataError) {
    descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw .io(operation: "create", path: path, code: errno) }
    self.path = path
    buffer.reserveCapacity(Self.bufferBytes)
  }

  deinit { close(descriptor) }

  mutating func append(_ bytes: some Collection<UInt8>) throws(DataError) {
    buffer.append(contentsOf: bytes)
    if buffer.count >= Self.bufferBytes { try flush() }
  }

  /// Appends an integer in little-endian order.
  mutating func append<Integer: FixedWidthInteger>(integer: Integer) throws(DataError) {
    withUnsafeBytes(of: integer.littleEndian) { buffer.append(contentsOf: $0) }
    if buffer.count >= Self.bufferBytes { try flush() }
  }

  /// Appends tokens as little-endian integers of 2 or 4 bytes.
  mutating func append(tokens: [Int32], tokenBytes: Int) throws(DataError) {
    for token in tokens {
      if tokenBytes == 2 {
        withUnsafeBytes(of: UInt16(truncatingIfNeeded: token).littleEndian) { buffer.append(contentsOf: $0) }
      } else {
        withUnsafeBytes(of: token.littleEndian) { buffer.append(contentsOf: $0) }
      }
    }
    if buffer.count >= Self.bufferBytes { try flush() }
  }

  private mutating func flush() throws(DataError) {
    digest?.update(buffer)
    var written = 0
    while written < buffer.count {
      let count = buffer.withUnsafeBytes { write(descriptor, $0.baseAddress! + written, $0.count - written) }
      if count >= 0 {
        written += count
      } else if errno != EINTR {
        throw .io(operation: "write", path: path, code: errno)
      }
    }
    sizeBytes += UInt64(buffer.count)
    buffer.removeAll(keepingCapacity: true)
  }

  /// Writes out what is buffered and makes it durable.
  /// - Returns: the file's name, size and SHA-256.
  mutating func finish() throws(DataError) -> StoredFile {
    try flush()
    guard fsync(descriptor) == 0 else { throw .io(operation: "sync", path: path, code: errno) }
    guard let digest = digest.take() else { preconditionFailure("a file is finished once") }
    return StoredFile(
      name: (path as NSString).lastPathComponent, sizeBytes: sizeBytes, sha256: digest.finish().hexadecimal)
  }
}

/// A file of the documents directory as its description records it.
public struct StoredFile: Hashable, Sendable, Codable {
  public var name: String
  public var sizeBytes: UInt64
  public var sha256: String

  /// Whether the name stays inside its directory.
  var isPlain: Bool { !name.isEmpty && !name.contains("/") && name != ".." }
}
