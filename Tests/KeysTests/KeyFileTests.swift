import Foundation
import Keys
import Testing
import Transport

/// A folder that goes with the test.
private final class Folder {
  let path = FileManager.default.temporaryDirectory.path + "/keys-\(UUID().uuidString)"
  init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
  deinit { try? FileManager.default.removeItem(atPath: path) }
  func file(_ name: String) -> String { path + "/" + name }
  func write(_ name: String, _ text: String, mode: mode_t = 0o600) throws -> String {
    try Data(text.utf8).write(to: URL(filePath: file(name)))
    chmod(file(name), mode)
    return file(name)
  }
}

private func mode(_ path: String) -> mode_t {
  var status = stat()
  return stat(path, &status) == 0 ? status.st_mode & 0o777 : 0
}

@Suite struct KeyFileTests {
  @Test func aGeneratedPairIsPrivateAndReadsBack() throws {
    let folder = try Folder()
    let path = folder.file("new/key")
    let key = try KeyFile.generate(path, name: "ann@host")
    #expect(mode(path) == 0o600 && mode(path + ".pub") == 0o644 && mode(folder.file("new")) == 0o700)
    #expect(try KeyFile.read(path).publicKey == key)
    let found = try KeyFile.publicKey(path + ".pub")
    #expect(found.key == key && found.name == "ann@host")
    #expect(try KeyFile.publicKey(key.text).key == key)
    #expect(throws: KeyFileError.exists(path: path + ".pub")) { try KeyFile.generate(path, name: "x") }
    #expect(try KeyFile.read(path).publicKey == key)
    // The file of the secret is not handed out by mistake.
    #expect(throws: KeyFileError.self) { try KeyFile.publicKey(path) }
    let text = try String(contentsOfFile: path + ".pub", encoding: .utf8)
    #expect(!text.contains(try KeyFile.read(path).secretText))
  }

  @Test(arguments: [0o644, 0o640, 0o604, 0o660, 0o601, 0o777] as [mode_t])
  func aFileThatOthersMayReadIsRefused(_ mode: mode_t) throws {
    let folder = try Folder()
    let path = folder.file("key")
    _ = try KeyFile.generate(path, name: "x")
    chmod(path, mode)
    #expect(throws: KeyFileError.tooOpen(path: path, mode: UInt16(mode), allowed: 0o600)) { try KeyFile.read(path) }
    chmod(path, 0o400)
    _ = try KeyFile.read(path)
  }

  @Test(.enabled(if: geteuid() == 0)) func aFileOfAnotherUserIsRefused() throws {
    let folder = try Folder()
    let path = folder.file("key")
    _ = try KeyFile.generate(path, name: "x")
    chown(path, 12_345, 0)
    #expect(throws: KeyFileError.foreignOwner(path: path, owner: 12_345)) { try KeyFile.read(path) }
    let list = try folder.write(AuthorizedKeys.fileName, "", mode: 0o644)
    chown(list, 12_345, 0)
    #expect(throws: KeyFileError.foreignOwner(path: list, owner: 12_345)) { try AuthorizedKeys.read(list) }
  }

  @Test func whatIsNoKeyFileIsRefusedWithoutShowingIt() throws {
    let folder = try Folder()
    let pair = try KeyPair.generate()
    let other = try KeyPair.generate()
    let secret = pair.secretText
    let bad = [
      "", "\n\n", "garbage", "\0\0\0", "public \(pair.publicKey)", "secret \(secret)", "secret\(secret)",
      "public \(pair.publicKey)\nsecret \(secret)\nsecret \(secret)", "public \(other.publicKey)\nsecret \(secret)",
      "public \(pair.publicKey)\nsecret \(secret.dropLast())", "public \(pair.publicKey)\nsecret \(secret) x",
      "secert \(secret)", String(repeating: "#", count: 5_000), String(repeating: "public a\n", count: 3),
    ]
    for text in bad {
      let path = try folder.write("bad", text)
      do {
        _ = try KeyFile.read(path)
        Issue.record("accepted \(text.debugDescription)")
      } catch {
        #expect("\(error)".contains(path) && !"\(error)".contains(secret), "\(error)")
      }
    }
    try Data([0xFF, 0xFE, 0x00, 0xC3]).write(to: URL(filePath: folder.file("bad")))
    #expect(throws: KeyFileError.self) { try KeyFile.read(folder.file("bad")) }
    #expect(throws: KeyFileError.missing(path: folder.file("none"))) { try KeyFile.read(folder.file("none")) }
    #expect(throws: KeyFileError.self) { try KeyFile.read(folder.path) }
    mkfifo(folder.file("pipe"), 0o600)
    #expect(throws: KeyFileError.self) { try KeyFile.read(folder.file("pipe")) }
  }
}

@Suite struct AuthorizedKeysTests {
  private func entry(_ name: String, _ role: AdmittedKeys.Role = .worker) throws -> AuthorizedKeys.Entry {
    .init(key: try KeyPair.generate().publicKey, role: role, name: name)
  }

  @Test func keysAreAuthorisedAndRevoked() throws {
    let folder = try Folder()
    let path = folder.file(AuthorizedKeys.fileName)
    #expect(try AuthorizedKeys.read(path).entries.isEmpty)
    let (ann, bob) = (try entry("ann"), try entry("bob", .observer))
    try AuthorizedKeys.authorize(ann, in: path)
    try AuthorizedKeys.authorize(bob, in: path)
    #expect(try AuthorizedKeys.read(path).entries == [ann, bob])
    #expect(mode(path) == 0o644)
    var promoted = bob
    promoted.role = .worker
    try AuthorizedKeys.authorize(promoted, in: path)
    #expect(try AuthorizedKeys.read(path).entries == [ann, promoted])
    #expect(throws: KeyFileError.taken(name: "ann", path: path)) {
      try AuthorizedKeys.authorize(try entry("ann"), in: path)
    }
    #expect(try AuthorizedKeys.revoke("ann", in: path) == ann)
    #expect(try AuthorizedKeys.revoke(bob.key.text, in: path) == promoted)
    #expect(throws: KeyFileError.unknown("ann", path: path)) { try AuthorizedKeys.revoke("ann", in: path) }
    #expect(try AuthorizedKeys.read(path).entries.isEmpty)
  }

  @Test func changesAtOneTimeAreAllMade() async throws {
    let folder = try Folder()
    let path = folder.file(AuthorizedKeys.fileName)
    let entries = try (0..<20).map { try entry("worker-\($0)") }
    await withTaskGroup { group in
      for entry in entries { group.addTask { try? AuthorizedKeys.authorize(entry, in: path) } }
    }
    #expect(Set(try AuthorizedKeys.read(path).entries) == Set(entries))
  }

  @Test func badListsAreRefusedWithFileAndLine() throws {
    let key = try KeyPair.generate().publicKey
    let other = try KeyPair.generate().publicKey
    for (text, line) in [
      ("garbage", 1), ("# fine\n\n\(key) worker", 3), ("\(key) master ann", 1), ("\(key) worker ann extra", 1),
      ("\(key.text.dropLast()) worker ann", 1), ("\(key) worker ann\n\(key) worker bob", 2),
      ("\(key) worker ann\n\(other) worker ann", 2), ("\(key) worker \(other)", 1),
      ("\(key) worker \(String(repeating: "x", count: 200))", 1),
    ] {
      do throws(KeyFileError) {
        _ = try AuthorizedKeys(text, path: "list")
        Issue.record("accepted \(text)")
      } catch {
        #expect("\(error)".hasPrefix("list:\(line): "), "\(error)")
      }
    }
    let list = try AuthorizedKeys("  \(key)   observer\u{20}ann \r\n# \(other) worker bob\n", path: "list")
    #expect(list.entries == [.init(key: key, role: .observer, name: "ann")])
    #expect(try AuthorizedKeys(list.text, path: "list") == list)
    for name in ["", "a b", "a\nb", "#a", "a\u{7}", key.text] { #expect(!AuthorizedKeys.isName(name)) }
  }

  @Test func aListThatOthersMayChangeIsRefused() throws {
    let folder = try Folder()
    for mode in [0o666, 0o664, 0o646] as [mode_t] {
      let path = try folder.write(AuthorizedKeys.fileName, "", mode: mode)
      #expect(throws: KeyFileError.tooOpen(path: path, mode: UInt16(mode), allowed: 0o644)) {
        try AuthorizedKeys.read(path)
      }
    }
  }

  @Test func aWatchSeesEveryChangeOnce() throws {
    let folder = try Folder()
    let path = folder.file(AuthorizedKeys.fileName)
    let ann = try entry("ann")
    var watch = KeyListWatch(path)
    func look() -> String {
      switch watch.look() {
      case .unchanged: "unchanged"
      case .changed(let list): list.entries.map(\.name).joined(separator: ",")
      case .unusable: "unusable"
      }
    }
    #expect(look() == "")
    #expect(look() == "unchanged")
    try AuthorizedKeys.authorize(ann, in: path)
    #expect(look() == "ann")
    #expect(look() == "unchanged")
    _ = try folder.write(AuthorizedKeys.fileName, "garbage", mode: 0o644)
    #expect(look() == "unusable")
    #expect(look() == "unchanged")
    _ = try folder.write(AuthorizedKeys.fileName, "\(ann.key) worker ann\n", mode: 0o644)
    #expect(look() == "unchanged")
    unlink(path)
    #expect(look() == "")
  }
}
