import Foundation
import Transport

/// A key pair on disk:
///
/// ```
/// # what this is
/// public <40 characters of Z85>
/// secret <40 characters of Z85>
/// ```
/// Mode 0600 or less, owned by the user that uses it, or it is refused. Beside it lies `FILE.pub`, one line with the
/// public key and a name, which is what other hosts need of it.
public enum KeyFile {
  static let limitBytes = 4_096

  /// `~/.config/transfusion/key`: used where a key is needed and none is named.
  public static var defaultPath: String {
    let environment = ProcessInfo.processInfo.environment
    let base = environment["XDG_CONFIG_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil }
    return (base ?? FileManager.default.homeDirectoryForCurrentUser.path + "/.config") + "/transfusion/key"
  }

  public static func publicPath(_ path: String) -> String { path + ".pub" }

  /// Where a worker's key lies, its coordinator's public key may lie.
  public static func coordinatorPath(beside path: String) -> String {
    URL(filePath: path).deletingLastPathComponent().appending(path: "coordinator.pub").path
  }

  /// Makes a key pair, its file and the file of its public half.
  /// - Parameter name: for people; becomes the name in a list of authorised keys unless another is given.
  /// - Throws: ``KeyFileError`` (`exists`: nothing is overwritten), or `TransportError`.
  public static func generate(_ path: String, name: String) throws -> PublicKey {
    guard AuthorizedKeys.isName(name) else { throw KeyFileError.invalidName(name) }
    let pair = try KeyPair.generate()
    let folder = URL(filePath: path).deletingLastPathComponent().path
    if !FileManager.default.fileExists(atPath: folder) {
      do {
        try FileManager.default.createDirectory(
          atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
      } catch {
        throw KeyFileError.inputOutput(
          operation: "create the folder", path: folder, code: 0, reason: error.localizedDescription)
      }
    }
    guard !FileManager.default.fileExists(atPath: publicPath(path)) else {
      throw KeyFileError.exists(path: publicPath(path))
    }
    try PrivateFile.create(
      path,
      """
      # Key pair of \(name) for transfusion. Keep it secret; \(publicPath(URL(filePath: path).lastPathComponent)) is for others.
      public \(pair.publicKey)
      secret \(pair.secretText)

      """, mode: 0o600)
    try PrivateFile.create(publicPath(path), "\(pair.publicKey) \(name)\n", mode: 0o644)
    return pair.publicKey
  }

  /// Reads a key pair and refuses a file that others may read.
  public static func read(_ path: String) throws(KeyFileError) -> KeyPair {
    let text = try PrivateFile.read(path, .secret, limitBytes: limitBytes)
    var values: [Substring: Substring] = [:]
    for (number, line) in lines(text) {
      let words = line.split(separator: " ", omittingEmptySubsequences: true)
      // What stands there is never shown: it may be the secret, misspelt.
      guard words.count == 2, words[0] == "public" || words[0] == "secret" else {
        throw .malformed(path: path, line: number, reason: "expected 'public KEY' or 'secret KEY'")
      }
      guard values.updateValue(words[1], forKey: words[0]) == nil else {
        throw .malformed(path: path, line: number, reason: "'\(words[0])' comes twice")
      }
    }
    guard let publicText = values["public"], let secretText = values["secret"] else {
      throw .malformed(
        path: path, line: 1, reason: "it holds no key pair (lines 'public KEY' and 'secret KEY' of 40 characters)")
    }
    guard let pair = KeyPair(publicText: String(publicText), secretText: String(secretText)) else {
      throw .malformed(path: path, line: 1, reason: "its two halves are not a key pair: it is damaged, make a new one")
    }
    return pair
  }

  /// A public key as a user names it: a `.pub` file, or the text itself.
  public static func publicKey(_ argument: String) throws(KeyFileError) -> (key: PublicKey, name: String?) {
    // A path may look like a key, being made of its characters; a file that is there is meant.
    var isDirectory: ObjCBool = false
    guard FileManager.default.fileExists(atPath: argument, isDirectory: &isDirectory), !isDirectory.boolValue else {
      guard let key = PublicKey(argument) else { throw .notAKey(argument) }
      return (key, nil)
    }
    let text = try PrivateFile.read(argument, .open, limitBytes: limitBytes)
    let found = lines(text)
    guard found.count == 1, let line = found.first else {
      throw .malformed(
        path: argument, line: 1, reason: "expected one line with a public key; give the .pub file, never the key file")
    }
    let words = line.text.split(separator: " ", omittingEmptySubsequences: true)
    guard let first = words.first, words.count <= 2, let key = PublicKey(String(first)) else {
      throw .malformed(path: argument, line: line.number, reason: "expected a public key and, perhaps, a name")
    }
    let name = words.count == 2 ? String(words[1]) : nil
    if let name, !AuthorizedKeys.isName(name) { throw .invalidName(name) }
    return (key, name)
  }

  /// Lines with something in them, numbered from 1, without comments and spaces around. (No key begins with `#`.)
  static func lines(_ text: String) -> [(number: Int, text: String)] {
    text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated().compactMap { index, line in
      let trimmed = line.trimmingCharacters(in: .whitespaces)
      return trimmed.isEmpty || trimmed.hasPrefix("#") ? nil : (index + 1, trimmed)
    }
  }
}
