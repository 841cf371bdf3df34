import CZeroMQ

/// Who somebody is: the public half of a CURVE key pair.
public struct PublicKey: Hashable, Sendable, Comparable, CustomStringConvertible {
  public static let sizeBytes = 32
  /// Characters of its text.
  public static let textLength = 40
  /// In Z85 (ZeroMQ RFC 32): one text for each key.
  public let text: String
  public var description: String { text }

  /// - Returns: nil unless it is 40 characters of Z85.
  public init?(_ text: String) {
    guard Z85.decode(text)?.count == Self.sizeBytes else { return nil }
    self.text = text
  }
  /// - Returns: nil unless there are 32.
  public init?(bytes: [UInt8]) {
    guard bytes.count == Self.sizeBytes, let text = Z85.encode(bytes) else { return nil }
    self.text = text
  }
  public var bytes: [UInt8] { Z85.decode(text) ?? [] }
  public static func < (a: PublicKey, b: PublicKey) -> Bool { a.text < b.text }
}

/// A CURVE key pair. What prints it shows the public half alone.
public struct KeyPair: Sendable, CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  public let publicKey: PublicKey
  /// In Z85; for the key file and the socket, nobody else.
  public let secretText: String

  /// A new one, from the system's randomness.
  ///
  /// Its public key begins with a letter or digit, so that it is no option on a command line.
  public static func generate() throws(TransportError) -> KeyPair {
    while true {
      var publicText = [CChar](repeating: 0, count: PublicKey.textLength + 1)
      var secretText = publicText
      guard zmq_curve_keypair(&publicText, &secretText) == 0 else { throw Socket.failure("zmq_curve_keypair") }
      guard let publicKey = PublicKey(Z85.string(publicText)) else { continue }
      guard let first = publicKey.text.utf8.first, Z85.isLetterOrDigit(first) else { continue }
      return KeyPair(publicKey: publicKey, secretText: Z85.string(secretText))
    }
  }

  /// - Returns: nil unless the secret is a key and the public half belongs to it.
  public init?(publicText: String, secretText: String) {
    guard let publicKey = PublicKey(publicText), Z85.decode(secretText)?.count == PublicKey.sizeBytes else {
      return nil
    }
    var derived = [CChar](repeating: 0, count: PublicKey.textLength + 1)
    guard zmq_curve_public(&derived, secretText) == 0, Z85.string(derived) == publicKey.text else { return nil }
    self.init(publicKey: publicKey, secretText: secretText)
  }

  private init(publicKey: PublicKey, secretText: String) {
    self.publicKey = publicKey
    self.secretText = secretText
  }

  public var description: String { "key pair of \(publicKey)" }
  public var debugDescription: String { description }
  public var customMirror: Mirror { Mirror(self, children: ["publicKey": publicKey]) }
}

/// The text form of keys, by the library's own functions.
enum Z85 {
  static func encode(_ bytes: [UInt8]) -> String? {
    guard bytes.count % 4 == 0 else { return nil }
    var text = [CChar](repeating: 0, count: bytes.count / 4 * 5 + 1)
    guard zmq_z85_encode(&text, bytes, bytes.count) != nil else { return nil }
    return string(text)
  }

  /// - Returns: nil for characters outside the alphabet, another length, or groups beyond 32 bits.
  static func decode(_ text: String) -> [UInt8]? {
    let characters = Array(text.utf8)
    // The library looks characters up in a table of 96 without looking at their range first.
    guard characters.count % 5 == 0, !characters.isEmpty, characters.allSatisfy(isInAlphabet) else { return nil }
    var bytes = [UInt8](repeating: 0, count: characters.count / 5 * 4)
    guard zmq_z85_decode(&bytes, text) != nil, encode(bytes) == text else { return nil }
    return bytes
  }

  static func string(_ text: [CChar]) -> String {
    String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  static func isLetterOrDigit(_ character: UInt8) -> Bool {
    switch character {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "a")...UInt8(ascii: "z"):
      true
    default: false
    }
  }
  private static let punctuation = Set(".-:+=^!/*?&<>()[]{}@%$#".utf8)
  private static func isInAlphabet(_ character: UInt8) -> Bool {
    isLetterOrDigit(character) || punctuation.contains(character)
  }
}
