import CSystem

/// An incremental SHA-256 (FIPS 180-4), computed by libcrypto.
public struct SHA256: ~Copyable {
  private let hash: OpaquePointer

  public init() {
    guard let hash = csystem_sha256_new() else {
      preconditionFailure("libcrypto has no memory or no SHA-256 (a FIPS provider that is not installed?)")
    }
    self.hash = hash
  }

  deinit { csystem_sha256_free(hash) }

  /// Adds bytes; all updates together are hashed as if they were one.
  public mutating func update(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return }
    precondition(csystem_sha256_update(hash, bytes.baseAddress, bytes.count) == 0, "libcrypto refused to hash")
  }
  public mutating func update(_ bytes: [UInt8]) { bytes.withUnsafeBytes { update($0) } }
  /// Adds a text's UTF-8.
  public mutating func update(_ text: String) {
    var text = text
    text.withUTF8 { update(UnsafeRawBufferPointer($0)) }
  }

  /// The digest of everything added.
  public consuming func finish() -> SHA256Digest {
    var bytes = [UInt8](repeating: 0, count: SHA256Digest.byteCount)
    precondition(csystem_sha256_finish(hash, &bytes) == 0, "libcrypto refused to hash")
    return SHA256Digest(bytes: bytes)
  }

  public static func digest(of bytes: UnsafeRawBufferPointer) -> SHA256Digest {
    var hash = SHA256()
    hash.update(bytes)
    return hash.finish()
  }
  public static func digest(of bytes: [UInt8]) -> SHA256Digest { bytes.withUnsafeBytes { digest(of: $0) } }
  public static func digest(of text: String) -> SHA256Digest { digest(of: Array(text.utf8)) }
}

/// A SHA-256 value; as text 64 lower-case hexadecimal digits.
public struct SHA256Digest: Hashable, Sendable, CustomStringConvertible {
  public static let byteCount = 32
  public let bytes: [UInt8]

  init(bytes: [UInt8]) { self.bytes = bytes }

  /// Nil unless `hexadecimal` is exactly 64 lower-case hexadecimal digits.
  public init?(hexadecimal: String) {
    let digits = Array(hexadecimal.utf8)
    guard digits.count == 2 * Self.byteCount else { return nil }
    var bytes: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
      guard let high = Self.value(digits[index]), let low = Self.value(digits[index + 1]) else { return nil }
      bytes.append(high << 4 | low)
    }
    self.bytes = bytes
  }

  public var hexadecimal: String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
  }
  public var description: String { hexadecimal }

  private static func value(_ digit: UInt8) -> UInt8? {
    switch digit {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): digit - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): digit - UInt8(ascii: "a") + 10
    default: nil
    }
  }
}
