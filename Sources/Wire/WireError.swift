/// Why bytes from a peer were refused. Nothing of a refused message is used.
public enum WireError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Not the bytes of the format at all.
  case malformed(what: String, reason: String)
  case tooLarge(what: String, sizeBytes: Int, limitBytes: Int)
  case missing(field: String)
  /// A case that this version does not know.
  case unknownCase(field: String, value: Int)
  case tooMany(field: String, count: Int, limit: Int)
  case tooLong(field: String, sizeBytes: Int, limitBytes: Int)
  case outOfRange(field: String, value: String, allowed: String)

  public var description: String {
    switch self {
    case .malformed(let what, let reason):
      "\(what) is not in the format of this program (\(reason)); check that the sender is transfusion, of the same version"
    case .tooLarge(let what, let size, let limit):
      "\(what) has \(size) bytes where at most \(limit) are accepted; check that the sender is transfusion, of the same version"
    case .missing(let field): "\(field) is missing; the sender must be of the same version"
    case .unknownCase(let field, let value):
      "\(field) has the unknown case \(value); the sender must be of the same version"
    case .tooMany(let field, let count, let limit): "\(field) has \(count) elements where at most \(limit) are accepted"
    case .tooLong(let field, let size, let limit): "\(field) has \(size) bytes where at most \(limit) are accepted"
    case .outOfRange(let field, let value, let allowed): "\(field) is \(value), accepted: \(allowed)"
    }
  }
}
