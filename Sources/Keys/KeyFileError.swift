/// Why a key or a list of keys cannot be used. No case holds a secret.
public enum KeyFileError: Error, Hashable, Sendable, CustomStringConvertible {
  case missing(path: String)
  /// Others than its owner may read it, or for a list change it.
  case tooOpen(path: String, mode: UInt16, allowed: UInt16)
  case foreignOwner(path: String, owner: UInt32)
  case malformed(path: String, line: Int, reason: String)
  case exists(path: String)
  case inputOutput(operation: String, path: String, code: Int32, reason: String)
  /// Neither a file nor a key.
  case notAKey(String)
  case invalidName(String)
  /// A name is one key's, and a key has one name.
  case taken(name: String, path: String)
  case unknown(String, path: String)
  case noCoordinatorKey(beside: String)

  public var description: String {
    switch self {
    case .missing(let path): "there is no key file \(path); make one with `transfusion keys generate --output \(path)`"
    case .tooOpen(let path, let mode, let allowed):
      "\(path) has mode \(Self.octal(mode)), at most \(Self.octal(allowed)) is safe: run `chmod \(Self.octal(allowed)) \(path)`"
        + (allowed == 0o600 ? ", and make a new key if others may have read it" : "")
    case .foreignOwner(let path, let owner):
      "\(path) belongs to user \(owner), who could change it: it must belong to the user that runs this process"
    case .malformed(let path, let line, let reason): "\(path):\(line): \(reason)"
    case .exists(let path): "\(path) exists and is not overwritten; choose another --output, or remove it first"
    case .inputOutput(let operation, let path, _, let reason): "cannot \(operation) \(path): \(reason)"
    case .notAKey(let text):
      "'\(text.prefix(80))' is neither a file nor a public key (40 characters of Z85, in quotes on a command line)"
    case .invalidName(let name):
      "'\(name.prefix(80))' is no name: it has 1 to 128 printable characters without spaces, and is no key"
    case .taken(let name, let path): "\(path) has the name \(name) for another key; choose another with --name"
    case .unknown(let text, let path): "\(path) has neither a key nor a name '\(text.prefix(80))'"
    case .noCoordinatorKey(let path):
      "the coordinator's public key is needed: give it with --coordinator-key (the text, or a copy of its .pub file), or "
        + "put that file at \(path)"
    }
  }

  private static func octal(_ mode: UInt16) -> String {
    let digits = String(mode, radix: 8)
    return String(repeating: "0", count: max(0, 4 - digits.count)) + digits
  }
}
