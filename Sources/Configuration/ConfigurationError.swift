/// What is wrong with a configuration, where, and what would be right.
public enum ConfigurationError: Error, Equatable, CustomStringConvertible {
  case unreadable(file: String, reason: String)
  case malformed(place: Place, reason: String)
  case unknownKey(place: Place, key: String, nearest: String?)
  case wrongType(place: Place, key: String, expected: String, found: String)
  case impossible(place: Place, key: String, value: String, reason: String)
  case missing(file: String, key: String, explanation: String)
  /// Two keys that contradict each other.
  case contradiction(file: String, keys: [String], reason: String)
  case badOverride(text: String, reason: String)

  /// A line of a file, or the command line.
  public enum Place: Equatable, Sendable, CustomStringConvertible {
    case line(file: String, line: Int)
    case file(String)
    case override(String)
    public var description: String {
      switch self {
      case .line(let file, let line): "\(file):\(line)"
      case .file(let file): file
      case .override(let text): "--set \(text)"
      }
    }
  }

  public var description: String {
    switch self {
    case .unreadable(let file, let reason): "\(file): cannot be read: \(reason)"
    case .malformed(let place, let reason): "\(place): not valid YAML: \(reason)"
    case .unknownKey(let place, let key, let nearest):
      "\(place): unknown key '\(key)'" + (nearest.map { "; did you mean '\($0)'?" } ?? "")
    case .wrongType(let place, let key, let expected, let found):
      "\(place): \(key) must be \(expected), not \(found)"
    case .impossible(let place, let key, let value, let reason): "\(place): \(key): \(value) \(reason)"
    case .missing(let file, let key, let explanation): "\(file): \(key) is missing: \(explanation)"
    case .contradiction(let file, let keys, let reason):
      "\(file): \(keys.joined(separator: " and ")) contradict each other: \(reason)"
    case .badOverride(let text, let reason): "--set \(text): \(reason)"
    }
  }
}
