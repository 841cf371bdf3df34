import Checkpoints
import ClusterModel
import ControlPlane
import Coordinator
import Foundation
import Testing
import Wire

@Suite("Journal") struct JournalTests {
  private func temporary() -> String {
    FileManager.default.temporaryDirectory.appending(path: "journal-\(UUID().uuidString).sqlite").path
  }
  private func record(_ step: Step, loss: Double? = 2.5, generation: Generation = Generation(1)) -> StepRecord {
    StepRecord(
      step: step, generation: generation, samples: step * 4..<(step + 1) * 4, tokens: 64, targetTokens: 30, images: 2,
      languageModelLoss: loss, diffusionLoss: nil, gradientSumOfSquares: 0.1 + 0.2, learningRate: 1e-3)
  }

  @Test("commits are durable: synchronous is FULL") func durable() throws {
    let path = temporary()
    defer { try? FileManager.default.removeItem(atPath: path) }
    #expect(try Journal(path: path).synchronousMode() == 2)
  }

  @Test("steps follow each other, and numbers come back with all their bits") func steps() throws {
    let path = temporary()
    defer { try? FileManager.default.removeItem(atPath: path) }
    let journal = try Journal(path: path)
    let generation = try journal.beginGeneration(host: "h", processID: 1, at: 0)
    #expect(generation == Generation(1))
    #expect(try journal.commit(record(0), seconds: 1.5, at: 10) == .committed)
    #expect(try journal.commit(record(1, loss: nil), seconds: 1, at: 11) == .committed)
    guard case .differs(let gap) = try journal.commit(record(3), seconds: 1, at: 12) else {
      Issue.record("a gap was committed")
      return
    }
    #expect(gap.contains("cannot follow step 1"))
    let read = try Journal.reading(path: path).steps(0..<10)
    #expect(read.map(\.record) == [record(0), record(1, loss: nil)])
    #expect(read[0].record.gradientSumOfSquares.bitPattern == (0.1 + 0.2).bitPattern)
    #expect(try journal.committedSteps() == 2)
  }

  @Test("a replayed step keeps its first record, and must have the same bits") func replay() throws {
    let path = temporary()
    defer { try? FileManager.default.removeItem(atPath: path) }
    let journal = try Journal(path: path)
    _ = try journal.beginGeneration(host: "h", processID: 1, at: 0)
    _ = try journal.commit(record(0), seconds: 1, at: 10)
    let second = try journal.beginGeneration(host: "h", processID: 2, at: 1)
    #expect(second == Generation(2))
    #expect(try journal.commit(record(0, generation: second), seconds: 9, at: 20) == .reproduced)
    #expect(try journal.steps(0..<1).first?.record.generation == Generation(1))
    guard
      case .differs(let reason) = try journal.commit(
        record(0, loss: (2.5).nextUp, generation: second), seconds: 1, at: 30)
    else {
      Issue.record("one bit was not seen")
      return
    }
    #expect(reason.contains("did not reproduce"))
  }

  @Test("of two coordinators the one with the newer generation writes") func fence() throws {
    let path = temporary()
    defer { try? FileManager.default.removeItem(atPath: path) }
    let journal = try Journal(path: path)
    let old = try journal.beginGeneration(host: "h", processID: 1, at: 0)
    #expect(try journal.commit(record(0), seconds: 1, at: 10) == .committed)
    try journal.begin(old.next, after: old, reason: "a worker joined", host: "h", processID: 1, at: 11)
    // Another one takes over.
    let other = try Journal(path: path).beginGeneration(host: "elsewhere", processID: 2, at: 12)
    #expect(other == Generation(3))
    func isSuperseded(_ body: () throws -> Void) -> Bool {
      do { try body() } catch CoordinatorError.superseded(_, let by) { return by == other } catch { return false }
      return false
    }
    #expect(isSuperseded { _ = try journal.commit(record(1, generation: old.next), seconds: 1, at: 13) })
    #expect(
      isSuperseded { try journal.begin(other, after: old.next, reason: "taken", host: "h", processID: 1, at: 13) })
    #expect(
      isSuperseded {
        try journal.begin(Generation(9), after: old.next, reason: "far ahead", host: "h", processID: 1, at: 13)
      })
    #expect(isSuperseded { try journal.checkNewest(old.next) })
    #expect(try journal.committedSteps() == 1)
    try journal.checkNewest(other)
  }

  @Test("a manifest that is finished after another coordinator has begun commits nothing") func lateManifest() throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "late-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let store = CheckpointStore(directory: folder + "/checkpoints")
    let path = folder + "/journal.sqlite"
    let part = try store.writePart(
      step: 3, file: "worker-0.h5", tensors: [TensorSource(path: "/a", shape: [], values: [1])])
    let tensors = part.tensors.map { CheckpointPart.Tensor(path: $0.path, shape: $0.shape, sha256: $0.sha256) }
    func commit(_ journal: Journal, _ generation: Generation) throws -> BackgroundCommits.Result.Outcome {
      let commits = BackgroundCommits(store: store, journal: journal, wake: {}) { request in
        CheckpointContext(
          run: RunID("01234567"), generation: request.generation, configuration: "",
          data: DataPosition(nextSample: request.nextSample, fingerprint: ""), device: "", precision: "float32")
      }
      commits.commit(
        CheckpointRequest(
          step: 3, generation: generation, nextSample: 3, deviceFingerprint: "",
          parts: [
            CheckpointPart(step: 3, file: part.file, sizeBytes: part.sizeBytes, sha256: part.sha256, tensors: tensors)
          ]))
      commits.finish()
      guard case .commit(let result) = try #require(commits.drain().first) else { throw CancellationError() }
      return result.outcome
    }
    let journal = try Journal(path: path)
    let first = try journal.beginGeneration(host: "h", processID: 1, at: 0)
    let successor = try Journal(path: path)
    let second = try successor.beginGeneration(host: "elsewhere", processID: 2, at: 1)
    guard case .failed(let reason) = try commit(journal, first) else {
      Issue.record("committed by a coordinator that another one has followed")
      return
    }
    #expect(reason.contains("another coordinator"))
    #expect(try !store.isCommitted(3))
    // A generation of its own that began meanwhile is none of another's.
    try successor.begin(second.next, after: second, reason: "a worker joined", host: "h", processID: 1, at: 2)
    guard case .committed = try commit(successor, second) else {
      Issue.record("refused to the newest coordinator")
      return
    }
    #expect(try store.isCommitted(3))
  }

  @Test("what is no journal is refused with its name") func foreign() throws {
    let path = temporary()
    defer { try? FileManager.default.removeItem(atPath: path) }
    try Data("not a database, but long enough to be taken for one".utf8).write(to: URL(filePath: path))
    #expect(throws: CoordinatorError.self) { try Journal(path: path) }
    #expect(throws: CoordinatorError.self) { try StatusReport.offline(RunDirectory("/nonexistent"), now: 0) }
  }
}
