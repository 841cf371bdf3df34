import Checkpoints
import ClusterModel
import Foundation
import Testing

@Suite struct DamageTests {
  /// Steps 10 and 20, each of two files.
  private func twoCheckpoints(_ directory: TemporaryDirectory) throws -> CheckpointStore {
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 10)
    try Sample.write(store, step: 20)
    return store
  }

  /// The damage to step 20 is found and named by every way in, and step 10 is used.
  private func expectFallback(_ store: CheckpointStore, file: String, _ comment: Comment) throws {
    func names(_ error: any Error) -> Bool {
      guard case .damaged(step: 20, file, _) = error as? CheckpointError else { return false }
      return true
    }
    let found = try store.newestValid(expecting: Sample.expecting)
    #expect(found.manifest.step == 10, comment)
    #expect(found.rejected.count == 1 && found.rejected.allSatisfy(names), comment)
    #expect(throws: CheckpointError.self, comment) { try store.digest(step: 20) }
  }

  @Test(arguments: ["worker-0001.h5", "worker-0002.h5", "manifest.json"])
  func anyFlippedByteIsFound(file: String) throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    let path = store.directory(of: 20) + "/" + file
    let original = try Damage.bytes(path)
    // The HDF5 header and both ends always, and a sample of all the rest.
    let stride = max(1, original.count / 97)
    let positions = Set(0..<16).union(Swift.stride(from: 16, to: original.count, by: stride)).union([original.count - 1]
    )
    for position in positions.sorted() {
      var bytes = original
      bytes[position] ^= 0x10
      try Damage.put(bytes, path)
      try expectFallback(store, file: file, "byte \(position) of \(file)")
    }
    #expect(try Sample.isWhole(store, try store.newestValid().manifest))
    try Damage.put(original, path)
    #expect(try store.newestValid().manifest.step == 20)
  }

  @Test(arguments: ["worker-0001.h5", "manifest.json"], [0, 1, 100, -1])
  func truncationIsFound(file: String, length: Int) throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    let path = store.directory(of: 20) + "/" + file
    let bytes = try Damage.bytes(path)
    try Damage.put(Array(bytes.prefix(length < 0 ? bytes.count + length : length)), path)
    try expectFallback(store, file: file, "\(file) cut to \(length)")
    let state = try #require(try store.list().last).state
    guard case .damaged = state else {
      Issue.record("a glance takes it for \(state)")
      return
    }
  }

  @Test(arguments: ["worker-0001.h5", "manifest.json"])
  func appendedBytesAreFound(file: String) throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    let path = store.directory(of: 20) + "/" + file
    try Damage.put(try Damage.bytes(path) + [0x20], path)
    try expectFallback(store, file: file, "a byte more in \(file)")
  }

  @Test(arguments: ["worker-0002.h5", "manifest.json"])
  func deletedFilesAreFound(file: String) throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    try Damage.remove(store.directory(of: 20) + "/" + file)
    try expectFallback(store, file: file, "\(file) deleted")
    let rejected = try store.newestValid().rejected
    #expect(rejected == [.damaged(step: 20, file: file, problem: .missing)])
    #expect(rejected[0].description.hasPrefix("checkpoint of step 20: \(file) is missing"))
  }

  @Test func whenAllAreDamagedEachIsNamed() throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    for step in [Step(10), 20] { try Damage.remove(store.directory(of: step) + "/worker-0001.h5") }
    #expect {
      try store.newestValid()
    } throws: { error in
      guard case .noneUsable(_, let rejected) = error as? CheckpointError else { return false }
      return rejected.count == 2
    }
    #expect(throws: CheckpointError.noCheckpoint(directory: directory("none"))) {
      try CheckpointStore(directory: directory("none")).newestValid()
    }
  }

  @Test func aStepCanBeAskedFor() throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    #expect(try store.newestValid(notAbove: 19).manifest.step == 10)
    #expect(try store.load(step: 10, expecting: Sample.expecting).step == 10)
    #expect(throws: CheckpointError.notFound(step: 15, directory: store.directory)) { try store.load(step: 15) }
  }

  /// A configuration that has other tensors refuses the checkpoint, whatever its hashes say.
  @Test func tensorsOfAnotherConfigurationAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    let path = "/parameters/model.norm.weight"
    var expecting = Sample.expecting
    expecting[path] = [13]
    let wrongShape = CheckpointProblem.wrongShape(path: path, expected: [13], found: [12])
    #expect(throws: CheckpointError.damaged(step: 20, file: "manifest.json", problem: wrongShape)) {
      try store.load(step: 20, expecting: expecting)
    }
    expecting[path] = nil
    #expect(
      throws: CheckpointError.damaged(step: 20, file: "manifest.json", problem: .unexpectedTensor(path: path))
    ) { try store.load(step: 20, expecting: expecting) }
    expecting = Sample.expecting
    expecting["/parameters/new"] = [1]
    #expect(
      throws: CheckpointError.damaged(step: 20, file: "manifest.json", problem: .tensorMissing(path: "/parameters/new"))
    ) { try store.load(step: 20, expecting: expecting) }
  }

  /// Between verification and reading a file can change: the reader hashes again.
  @Test func changesAfterLoadingAreFound() throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    let manifest = try store.load(step: 20)
    let path = "/parameters/model.embed_tokens.weight"
    let file = try #require(manifest.tensors[path]?.file)
    let values = Sample.values(path, step: 20).withUnsafeBytes { Array($0) }
    var bytes = try Damage.bytes(store.directory(of: 20) + "/" + file)
    let offset = try #require(
      bytes.indices.first { bytes.count - $0 >= values.count && bytes[$0..<$0 + values.count].elementsEqual(values) })
    bytes[offset + 5] ^= 1
    try Damage.put(bytes, store.directory(of: 20) + "/" + file)
    #expect(throws: CheckpointError.damaged(step: 20, file: file, problem: .wrongTensorHash(path: path))) {
      try CheckpointReader(store: store, manifest: manifest).floats(path)
    }
    #expect(throws: CheckpointError.unknownTensor(step: 20, path: "/parameters/none")) {
      try CheckpointReader(store: store, manifest: manifest).floats("/parameters/none")
    }
  }

  @Test func strangersInACommittedFolderFailVerification() throws {
    let directory = try TemporaryDirectory()
    let store = try twoCheckpoints(directory)
    try Damage.put([1], store.directory(of: 20) + "/worker-0003.h5")
    #expect {
      try store.verify(step: 20)
    } throws: {
      if case .damaged(step: 20, file: "worker-0003.h5", .refused) = $0 as? CheckpointError { true } else { false }
    }
  }
}
