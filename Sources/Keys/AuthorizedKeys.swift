import Foundation
import Transport

/// Who may connect to the coordinator of a run: `RUN/authorized-keys`, a line for each key.
///
/// ```
/// <40 characters of Z85> worker|observer <name>
/// ```
/// Who can write to it can admit anybody, so it is refused when others than its owner (or root) may.
public struct AuthorizedKeys: Hashable, Sendable {
  public struct Entry: Hashable, Sendable {
    public var key: PublicKey
    public var role: AdmittedKeys.Role
    public var name: String
    public init(key: PublicKey, role: AdmittedKeys.Role, name: String) {
      self.key = key
      self.role = role
      self.name = name
    }
  }
  public static let fileName = "authorized-keys"
  public static let limit = 65_536
  static let limitBytes = 16 << 20

  /// In the order of the file; no key and no name twice.
  public private(set) var entries: [Entry]

  public init() { entries = [] }

  public static func isName(_ name: String) -> Bool {
    (1...128).contains(name.utf8.count) && PublicKey(name) == nil && !name.hasPrefix("#")
      && name.unicodeScalars.allSatisfy { $0.value > 0x20 && $0.value != 0x7F && !$0.properties.isWhitespace }
  }

  /// The list in a file; empty where there is none: then nobody is admitted.
  public static func read(_ path: String) throws(KeyFileError) -> AuthorizedKeys {
    let text: String
    do throws(KeyFileError) {
      text = try PrivateFile.read(path, .trusted, limitBytes: limitBytes)
    } catch {
      if case .missing = error { return AuthorizedKeys() }
      throw error
    }
    return try AuthorizedKeys(text, path: path)
  }

  /// - Parameter path: for errors.
  public init(_ text: String, path: String) throws(KeyFileError) {
    entries = []
    var keys: Set<PublicKey> = []
    var names: Set<String> = []
    for (number, line) in KeyFile.lines(text) {
      let words = line.split(separator: " ", omittingEmptySubsequences: true).map(String.init)
      guard words.count == 3 else {
        throw .malformed(path: path, line: number, reason: "expected a public key, worker or observer, and a name")
      }
      guard let key = PublicKey(words[0]) else {
        throw .malformed(path: path, line: number, reason: "the first word is no public key (40 characters of Z85)")
      }
      guard let role = AdmittedKeys.Role(rawValue: words[1]) else {
        throw .malformed(path: path, line: number, reason: "the second word must be worker or observer")
      }
      guard Self.isName(words[2]) else {
        throw .malformed(path: path, line: number, reason: "the third word is no name")
      }
      guard keys.insert(key).inserted, names.insert(words[2]).inserted else {
        throw .malformed(path: path, line: number, reason: "the key or the name \(words[2]) is on the list twice")
      }
      guard entries.count < Self.limit else {
        throw .malformed(path: path, line: number, reason: "there are more than \(Self.limit) keys")
      }
      entries.append(Entry(key: key, role: role, name: words[2]))
    }
  }

  public var text: String {
    (["# Keys that may connect to this run's coordinator: public key, worker or observer, name."]
      + entries.map { "\($0.key) \($0.role.rawValue) \($0.name)" }).joined(separator: "\n") + "\n"
  }

  /// Puts a key on the list of a file, or changes its role and name.
  public static func authorize(_ entry: Entry, in path: String) throws(KeyFileError) {
    guard isName(entry.name) else { throw .invalidName(entry.name) }
    try change(path) { list throws(KeyFileError) in
      guard !list.entries.contains(where: { $0.name == entry.name && $0.key != entry.key }) else {
        throw .taken(name: entry.name, path: path)
      }
      if let index = list.entries.firstIndex(where: { $0.key == entry.key }) {
        list.entries[index] = entry
      } else {
        list.entries.append(entry)
      }
    }
  }

  /// Strikes a key off the list of a file.
  /// - Parameter keyOrName: its text or its name.
  public static func revoke(_ keyOrName: String, in path: String) throws(KeyFileError) -> Entry {
    try change(path) { list throws(KeyFileError) in
      guard let index = list.entries.firstIndex(where: { $0.key.text == keyOrName || $0.name == keyOrName }) else {
        throw .unknown(keyOrName, path: path)
      }
      return list.entries.remove(at: index)
    }
  }

  private static func change<Value>(
    _ path: String, _ body: (inout AuthorizedKeys) throws(KeyFileError) -> Value
  ) throws(KeyFileError) -> Value {
    try PrivateFile.locked(path + ".lock") { () throws(KeyFileError) in
      var list = try read(path)
      let value = try body(&list)
      try PrivateFile.replace(path, list.text, mode: 0o644)
      return value
    }
  }
}
