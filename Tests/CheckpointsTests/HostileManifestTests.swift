import Checkpoints
import ClusterModel
import Digests
import Foundation
import Testing

/// Manifests that carry the right hash of themselves and say what they should not.
@Suite struct HostileManifestTests {
  private func store(_ directory: TemporaryDirectory) throws -> (CheckpointStore, String, String) {
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 1)
    let path = store.directory(of: 1) + "/manifest.json"
    return (store, path, String(decoding: try Damage.bytes(path), as: UTF8.self))
  }

  /// The text with its own hash made right.
  private func signed(_ text: String) -> [UInt8] {
    let key = "\"manifestSHA256\" : \""
    guard let start = text.range(of: key)?.upperBound,
      let end = text.index(start, offsetBy: 64, limitedBy: text.endIndex)
    else { return Array(text.utf8) }
    var text = text
    text.replaceSubrange(start..<end, with: String(repeating: "0", count: 64))
    let hash = SHA256.digest(of: text).hexadecimal
    text.replaceSubrange(start..<end, with: hash)
    return Array(text.utf8)
  }

  private func expectRefused(_ store: CheckpointStore, _ comment: Comment) {
    #expect(
      performing: { try store.load(step: 1) },
      throws: {
        if case .damaged(step: 1, file: "manifest.json", _) = $0 as? CheckpointError { true } else { false }
      })
    #expect(throws: CheckpointError.self, comment) { try store.newestValid() }
    #expect(throws: CheckpointError.self, comment) { try store.digest(step: 1) }
  }

  @Test func signingIsRight() throws {
    let directory = try TemporaryDirectory()
    let (store, path, text) = try store(directory)
    #expect(signed(text) == Array(text.utf8))
    // A change that means nothing is accepted when the hash says so: the hash is all that protects the text.
    try Damage.put(signed(text.replacing("x86-64 avx512", with: "x86-64 avx2")), path)
    #expect(try store.load(step: 1).device == "x86-64 avx2")
  }

  @Test(arguments: [
    ("worker-0001.h5", "../worker-0001.h5"), ("worker-0001.h5", "/etc/passwd"), ("worker-0001.h5", ".worker.h5"),
    ("\"formatVersion\" : 1", "\"formatVersion\" : 2"), ("\"formatVersion\" : 1", "\"formatVersion\" : -1"),
    ("\"step\" : 1", "\"step\" : 2"), ("\"step\" : 1", "\"step\" : -1"), ("\"step\" : 1", "\"step\" : 1e400"),
    ("\"generation\" : 3", "\"generation\" : \"three\""), ("\"nextSample\" : 640", "\"nextSample\" : null"),
    ("/parameters/model.norm.weight", "/parameters/../model.norm.weight"),
    ("/parameters/model.norm.weight", "parameters"),
    ("\"digest\" : \"", "\"digest\" : \"0"), ("\"files\" : {", "\"files\" : {}, \"other\" : {"),
    ("      12\n", "      -12\n"), ("      12\n", "      9223372036854775807, 9223372036854775807\n"),
    ("      12\n", "      1000000000\n"), ("      12\n", "      1,1,1,1,1,1,1,1,12\n"),
    ("\"run\"", "\"manifestSHA256\""),
    ("\"configuration\"", "\"configuration\" : \"\", \"manifestSHA256\" : \"\", \"more\""), ("{", "["),
  ])
  func impossibleContentIsRefused(text from: String, replacement to: String) throws {
    let directory = try TemporaryDirectory()
    let (store, path, text) = try store(directory)
    let changed = text.replacing(from, with: to)
    try #require(changed != text)
    try Damage.put(signed(changed), path)
    expectRefused(store, "\(from) -> \(to)")
  }

  @Test func deepNestingIsRefused() throws {
    let directory = try TemporaryDirectory()
    let (store, path, text) = try store(directory)
    let deep = String(repeating: "[", count: 200_000) + String(repeating: "]", count: 200_000)
    try Damage.put(signed(text.replacing("\"run\"", with: "\"deep\" : \(deep), \"run\"")), path)
    expectRefused(store, "nested arrays")
  }

  @Test func enormousManifestsAreRefusedUnread() throws {
    let directory = try TemporaryDirectory()
    let (store, path, _) = try store(directory)
    try #require(truncate(path, off_t(CheckpointManifest.limitBytes) + 1) == 0)
    expectRefused(store, "larger than the limit")
  }

  @Test func manifestsThatAreNoFilesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let (store, path, text) = try store(directory)
    try Damage.put(Array(text.utf8), directory("elsewhere.json"))
    try Damage.remove(path)
    try FileManager.default.createSymbolicLink(atPath: path, withDestinationPath: directory("elsewhere.json"))
    #expect(throws: CheckpointError.damaged(step: 1, file: "manifest.json", problem: .notRegularFile)) {
      try store.load(step: 1)
    }
  }

  /// The folder of one step under the name of another.
  @Test func checkpointsUnderAnotherStepAreRefused() throws {
    let directory = try TemporaryDirectory()
    let (store, _, _) = try store(directory)
    try FileManager.default.copyItem(atPath: store.directory(of: 1), toPath: store.directory(of: 2))
    let problem = CheckpointProblem.malformed(reason: "it is of step 1")
    #expect(throws: CheckpointError.damaged(step: 2, file: "manifest.json", problem: problem)) {
      try store.load(step: 2)
    }
    #expect(try store.newestValid().manifest.step == 1)
  }
}
