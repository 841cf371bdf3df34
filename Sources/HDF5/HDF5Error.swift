/// What went wrong with an HDF5 file: the file, the object in it, and the reason.
public enum HDF5Error: Error, Equatable, CustomStringConvertible {
  case cannotOpen(file: String, reason: String)
  case cannotCreate(file: String, reason: String)
  /// A call of the library failed; `object` is a path inside the file.
  case library(file: String, object: String, operation: String, reason: String)
  case missing(file: String, object: String)
  /// Something that could lead outside the file, which is never followed.
  case refused(file: String, object: String, reason: String)
  case wrongKind(file: String, object: String, expected: String)
  case wrongShape(file: String, object: String, shape: [Int], reason: String)
  case wrongType(file: String, object: String, expected: String)
  case closed(file: String)

  public var description: String {
    switch self {
    case .cannotOpen(let file, let reason): "\(file) cannot be opened as an HDF5 file: \(reason)"
    case .cannotCreate(let file, let reason): "\(file) cannot be created: \(reason)"
    case .library(let file, let object, let operation, let reason):
      "\(file): cannot \(operation) \(object): \(reason)"
    case .missing(let file, let object): "\(file) has no \(object)"
    case .refused(let file, let object, let reason): "\(file): \(object) \(reason), which is refused"
    case .wrongKind(let file, let object, let expected): "\(file): \(object) is not a \(expected)"
    case .wrongShape(let file, let object, let shape, let reason): "\(file): \(object) has shape \(shape): \(reason)"
    case .wrongType(let file, let object, let expected): "\(file): \(object) is not \(expected)"
    case .closed(let file): "\(file) is closed"
    }
  }
}
