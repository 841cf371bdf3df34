import Checkpoints
import ClusterModel
import Foundation
import Testing

@Suite struct CrashTests {
  private static let writing = CheckpointStage.allCases.filter { $0 != .manifestRemoved }

  /// Whenever the writer stops, the checkpoint before is whole or the new one is; then writing works again.
  @Test(arguments: writing)
  func aCrashWhileWritingLosesNothingCommitted(stage: CheckpointStage) throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 10)
    var crashing = store
    crashing.atStage = { reached throws(CheckpointError) in
      if reached == stage { throw CheckpointError.interrupted(reached) }
    }
    #expect(throws: CheckpointError.interrupted(stage)) { try Sample.write(crashing, step: 20) }

    let isIn = stage == .manifestRenamed || stage == .committed
    let found = try store.newestValid(expecting: Sample.expecting)
    #expect(found.manifest.step == (isIn ? 20 : 10))
    #expect(try Sample.isWhole(store, found.manifest))
    #expect(found.rejected == (isIn ? [] : [.damaged(step: 20, file: "manifest.json", problem: .missing)]))
    #expect(try store.removeUncommitted() == (isIn ? [] : [20]))
    if !isIn { try Sample.write(store, step: 20) }
    _ = try store.verify(step: 20, expecting: Sample.expecting)
  }

  /// Whoever must not commit leaves the files of others, too.
  @Test func aFenceThatRefusesCommitsAndRemovesNothing() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 10)
    let parts = try Sample.writeParts(store, step: 20)
    let other = try store.writePart(
      step: 20, file: "of-a-successor.h5", tensors: [TensorSource(path: "/a", shape: [], values: [1])])
    func refuse(_ change: () throws(CheckpointError) -> Void) throws(CheckpointError) {
      throw .notPermitted(reason: "fenced")
    }
    #expect(throws: CheckpointError.notPermitted(reason: "fenced")) {
      try store.commit(step: 20, parts: parts, context: Sample.context, fence: refuse)
    }
    #expect(try !store.isCommitted(20))
    #expect(try Damage.names(store.directory(of: 20)).contains(other.file))
    try store.commit(step: 20, parts: parts, context: Sample.context)
    #expect(try !Damage.names(store.directory(of: 20)).contains(other.file), "a stranger goes with the commit")
    #expect(throws: CheckpointError.notPermitted(reason: "fenced")) {
      try store.applyRetention(keepLast: 1, keepEvery: nil, fence: refuse)
    }
    #expect(try store.isCommitted(10))
    _ = try store.verify(step: 20, expecting: Sample.expecting)
  }

  /// One coordinator stops where it is about to write its manifest; its successor's is on disk when it goes on, and is
  /// refused: the successor commits its own, and finds its own.
  @Test func manifestsOfTwoCoordinatorsAreTwoFiles() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    func part(_ file: String) throws -> PartRecord {
      try store.writePart(step: 3, file: file, tensors: [TensorSource(path: "/a", shape: [], values: [1])])
    }
    let (old, new) = (try part("worker-0000-g1.h5"), try part("worker-0000-g2.h5"))
    let manifest = try store.commit(step: 3, parts: [new], context: Sample.context) { change throws(CheckpointError) in
      #expect(throws: CheckpointError.notPermitted(reason: "fenced")) {
        try store.commit(step: 3, parts: [old], context: Sample.context) { _ throws(CheckpointError) in
          throw .notPermitted(reason: "fenced")
        }
      }
      try change()
    }
    #expect(manifest.fileNames == ["worker-0000-g2.h5"])
    #expect(try Damage.names(store.directory(of: 3)) == ["manifest.json", "worker-0000-g2.h5"])
  }

  /// The second part stops, at every stage that a part has: the first part alone is no checkpoint.
  @Test func onePartIsNoCheckpoint() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    _ = try store.writePart(
      step: 3, file: "worker-0001.h5", tensors: [TensorSource(path: "/a", shape: [], values: [1])])
    #expect(try !store.isCommitted(3))
    #expect(throws: CheckpointError.self) { try store.newestValid() }
    guard case .uncommitted = try #require(try store.list().first).state else {
      Issue.record("not shown as uncommitted")
      return
    }
    #expect(try store.removeUncommitted(except: [3]) == [])
    #expect(try store.removeUncommitted() == [3])
    #expect(try Damage.names(store.directory) == [])
  }

  @Test func aCrashWhileRemovingLeavesNoHalfCheckpoint() throws {
    let directory = try TemporaryDirectory()
    var store = CheckpointStore(directory: directory("checkpoints"))
    for step in [Step(10), 20, 30] { try Sample.write(store, step: step) }
    store.atStage = { reached throws(CheckpointError) in throw CheckpointError.interrupted(reached) }
    #expect(throws: CheckpointError.interrupted(.manifestRemoved)) {
      try store.applyRetention(keepLast: 1, keepEvery: nil)
    }
    store.atStage = nil
    #expect(try !store.isCommitted(10))
    #expect(try store.removeUncommitted() == [10])
    #expect(try store.newestValid().manifest.step == 30)
    #expect(try store.applyRetention(keepLast: 1, keepEvery: nil) == [20])
  }

  @Test func unfinishedFilesBesideCommittedOnesAreRemoved() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 10)
    try Damage.put([1], store.directory(of: 10) + "/worker-0007.h5.partial")
    #expect(try store.removeUncommitted() == [])
    _ = try store.verify(step: 10)
  }
}
