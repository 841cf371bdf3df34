import Checkpoints
import ClusterModel
import Testing

@Suite struct RetentionTests {
  private func store(_ directory: TemporaryDirectory, steps: [Step]) throws -> CheckpointStore {
    let store = CheckpointStore(directory: directory("checkpoints"))
    for step in steps { try Sample.write(store, step: step) }
    return store
  }
  private func steps(_ store: CheckpointStore) throws -> [Step] { try store.list().map(\.step) }

  @Test func theLastAndEveryKthStay() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 20, 30, 40, 50, 60])
    #expect(try store.applyRetention(keepLast: 2, keepEvery: 30) == [10, 20, 40])
    #expect(try steps(store) == [30, 50, 60])
    #expect(try store.applyRetention(keepLast: 2, keepEvery: 30) == [])
    #expect(try store.applyRetention(keepLast: 1, keepEvery: nil, verified: [60]) == [30, 50])
    #expect(try steps(store) == [60])
  }

  @Test func atLeastOneStays() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 20])
    #expect(try store.applyRetention(keepLast: 0, keepEvery: 0) == [10])
    #expect(try steps(store) == [20])
  }

  @Test func theNewestValidOneStaysWhileNewerOnesAreDamaged() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 20, 30, 40])
    for step in [Step(30), 40] {
      let path = store.directory(of: step) + "/worker-0001.h5"
      var bytes = try Damage.bytes(path)
      bytes[bytes.count / 2] ^= 1
      try Damage.put(bytes, path)
    }
    #expect(try store.applyRetention(keepLast: 2, keepEvery: nil) == [10])
    #expect(try store.newestValid().manifest.step == 20)
  }

  @Test func nothingIsRemovedWhenNothingIsValid() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 20])
    for step in [Step(10), 20] { try Damage.remove(store.directory(of: step) + "/worker-0001.h5") }
    #expect(try store.applyRetention(keepLast: 1, keepEvery: nil) == [])
    #expect(try steps(store) == [10, 20])
  }

  /// Uncommitted steps do not count towards those that stay.
  @Test func uncommittedStepsAreNotCounted() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 20])
    _ = try Sample.writeParts(store, step: 30)
    #expect(try store.applyRetention(keepLast: 1, keepEvery: nil) == [10])
    #expect(try steps(store) == [20, 30])
  }

  @Test func damagedOnesAreSetAside() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 20])
    try Damage.remove(store.directory(of: 20) + "/worker-0001.h5")
    for expected in ["damaged-step-000000020", "damaged-step-000000020-2"] {
      #expect(try store.setAside(step: 20) == store.directory + "/" + expected)
      #expect(try steps(store) == [10])
      try Sample.write(store, step: 20)
    }
    #expect(try store.newestValid().manifest.step == 20)
    #expect(throws: CheckpointError.notFound(step: 99, directory: store.directory)) { try store.setAside(step: 99) }
  }

  @Test func aGlanceShowsStepsFilesAndSizes() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10, 1_000_000_000_000])
    let entries = try store.list()
    #expect(entries.map(\.step) == [10, 1_000_000_000_000])
    #expect(entries.allSatisfy { $0.fileCount == 3 && $0.modifiedSeconds > 0 })
    guard case .committed(let manifest) = entries[0].state else {
      Issue.record("not committed: \(entries[0].state)")
      return
    }
    #expect(entries[0].sizeBytes > manifest.sizeBytes)
  }

  @Test func otherNamesAreNotSteps() throws {
    let directory = try TemporaryDirectory()
    let store = try store(directory, steps: [10])
    for name in ["step-", "step-11", "step-00000000x", "step--00000001", "other", "step-0000000011"] {
      try Damage.put([], store.directory + "/" + name)
    }
    #expect(try steps(store) == [10])
    #expect(try store.removeUncommitted() == [])
  }
}
