import Foundation
import Keys
import Transport

/// Key files and lists of keys.
extension FuzzTarget {
  static let keys = [keyFile, authorizedKeys]

  private static let words = ["public ", "secret ", "worker ", "observer ", "#", "\r", "\u{2028}", "\u{85}"]

  private static let keyFile = FuzzTarget(
    "key-file", "KeyFile.read and KeyFile.publicKey", shape: .text, dictionary: words, heapLimitBytes: 8 << 20,
    share: 15,
    examples: { folder in
      let path = folder + "/example"
      try? FileManager.default.removeItem(atPath: path)
      try? FileManager.default.removeItem(atPath: path + ".pub")
      _ = try KeyFile.generate(path, name: "name")
      return try [("pair", path), ("public", path + ".pub")].map {
        ($0.0, [UInt8](try Data(contentsOf: URL(filePath: $0.1))))
      }
    }
  ) { folder in
    let file = try InputFile(folder + "/key")
    guard chmod(file.path, 0o600) == 0 else { throw BrokenPromise("cannot close \(file.path) to others") }
    return { input in
      try file.put(input)
      let found = try outcome { _ = try KeyFile.publicKey(file.path) }
      if case .accepted = found { return found }
      return try outcome {
        let pair = try KeyFile.read(file.path)
        try promise(!"\(pair)".contains(pair.secretText), "a key pair shows its secret")
      }
    }
  }

  private static let authorizedKeys = FuzzTarget(
    "authorized-keys", "AuthorizedKeys from a text, and as it is written", shape: .text, dictionary: words,
    heapLimitBytes: 8 << 20, share: 15,
    examples: { folder in
      var lines = "# who may connect\n"
      for (name, role) in [("a", "worker"), ("b", "observer")] {
        let key = try KeyPair.generate().publicKey
        lines += "\(key) \(role) \(name)\n"
      }
      return [("list", Array(lines.utf8))]
    }
  ) { _ in
    return { input in
      try outcome {
        let list = try AuthorizedKeys(String(decoding: input, as: UTF8.self), path: "authorized-keys")
        do {
          let again = try AuthorizedKeys(list.text, path: "authorized-keys")
          try promise(again == list, "a list of keys that was read is written otherwise")
        } catch let error as KeyFileError {
          throw BrokenPromise("a list of keys that was read and written is refused: \(error)")
        }
      }
    }
  }
}
