import ClusterModel

/// Names inside a checkpoint directory: which are ours, which are refused.
enum CheckpointNames {
  static let manifest = "manifest.json"
  static let partial = ".partial"
  private static let prefix = "step-"

  /// `step-000001000`: nine digits sort as text for the runs that there are; more are allowed.
  static func directory(_ step: Step) -> String {
    let digits = String(step)
    return prefix + String(repeating: "0", count: max(0, 9 - digits.count)) + digits
  }
  /// The step of a directory's name, nil for any other name.
  static func step(_ name: String) -> Step? {
    guard name.hasPrefix(prefix), let step = Step(name.dropFirst(prefix.count)), directory(step) == name else {
      return nil
    }
    return step
  }

  /// Names of part files are plain: no separators, nothing hidden, `.h5` at the end.
  static func isPartFile(_ name: String) -> Bool {
    name.utf8.count <= 128 && name.hasSuffix(".h5") && name.utf8.first != UInt8(ascii: ".")
      && name.utf8.allSatisfy(isPlain)
  }
  /// Tensor paths are absolute, of plain components.
  static func isTensorPath(_ path: String) -> Bool {
    guard path.utf8.count <= 512, path.hasPrefix("/") else { return false }
    return path.dropFirst().split(separator: "/", omittingEmptySubsequences: false).allSatisfy {
      !$0.isEmpty && $0 != "." && $0 != ".." && $0.utf8.allSatisfy(isPlain)
    }
  }
  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "_"):
      true
    default: false
    }
  }
}
