import Checkpoints
import ClusterModel
import ControlPlane
import Coordinator
import Foundation
import GRDB
import Keys
import Synchronization
import Testing
import Transport
import Wire

/// The shell over real sockets and files, with workers that compute nothing.
@Suite("Coordinator process", .serialized, .timeLimit(.minutes(2))) struct CoordinatorProcessTests {
  private func outcome(_ ended: TestRun.Ended) throws -> CoordinatorOutcome { try ended.outcome.get() }

  @Test("a run goes to its end: journal, checkpoints, retention, validations, stop to every worker")
  func toTheEnd() throws {
    let run = TestRun()
    let ended = run.run(run.settings())
    #expect(try outcome(ended) == .done(step: 6))
    #expect(ended.stops.compactMap { $0?.disposition } == [.done, .done])

    let directory = RunDirectory(run.path)
    #expect(directory.liveCoordinator() == nil)
    let journal = try Journal.reading(path: directory.journal)
    let steps = try journal.steps(0..<100)
    #expect(steps.map(\.record.step) == Array(0..<6))
    // Each sample once, in order.
    let expected = (0..<6 as Range<UInt64>).map { $0 * 8..<($0 + 1) * 8 }
    #expect(steps.map(\.record.samples) == expected)
    #expect(steps.first?.record.languageModelLoss == 46.0 / 40)
    #expect(try journal.validations().map(\.step) == [0, 3, 6])
    #expect(try journal.checkpoints().map(\.step).last == 6)
    let store = CheckpointStore(directory: directory.checkpoints)
    let kept = try store.list().map(\.step)
    #expect(kept == [4, 6])
    let manifest = try store.verify(step: 6).manifest
    #expect(manifest.data.nextSample == 48 && manifest.device == "fake")
    #expect(try journal.fact(.run) == manifest.run)
    // One line a step.
    #expect(ended.log.filter { $0.hasPrefix("info step ") }.count == 6)
    // Nothing left to do: no workers are awaited.
    #expect(try outcome(run.run(run.settings(), startsWorkers: false)) == .done(step: 6))
  }

  @Test("a stop drains to a checkpoint; the resume goes on there, on other workers, with every sample once")
  func stopAndResume() throws {
    let run = TestRun()
    var settings = run.settings(steps: 12)
    settings.checkpointEvery = 0
    guard case .stopped(let step, _) = try outcome(run.run(settings, stopAtStep: 3)) else {
      Issue.record("expected a drained run")
      return
    }
    #expect(step >= 3 && step < 12)
    let store = CheckpointStore(directory: run.path + "/checkpoints")
    #expect(try store.list().map(\.step) == [step])

    settings = run.settings(workers: 1, steps: 12)
    let resumed = run.run(settings)
    #expect(try outcome(resumed) == .done(step: 12))
    #expect(resumed.log.contains { $0.contains("resuming from the checkpoint of step \(step)") })
    let records = try Journal.reading(path: run.path + "/journal.sqlite").steps(0..<100).map(\.record)
    let firsts = (0..<12 as Range<UInt64>).map { $0 * 8 }
    #expect(records.map(\.samples.lowerBound) == firsts)
    #expect(records.first?.generation == Generation(1) && records.last?.generation == Generation(2))
  }

  @Test("asked to stop twice, it does not wait for the checkpoint") func stopTwice() throws {
    let run = TestRun()
    var settings = run.settings(steps: 50)
    settings.checkpointEvery = 0
    guard case .requeue(let reason, nil) = try outcome(run.run(settings, stopAtStep: 3, stopCount: 2)) else {
      Issue.record("expected requeue")
      return
    }
    #expect(reason.contains("asked to stop"))
    #expect(try CheckpointStore(directory: run.path + "/checkpoints").list().isEmpty)
  }

  @Test("a resume refuses workers of another processor and goes on waiting") func otherDevice() throws {
    let run = TestRun()
    #expect(try outcome(run.run(run.settings(workers: 1, steps: 4))) == .done(step: 4))
    #expect(try Journal.reading(path: run.path + "/journal.sqlite").fact(.device) == "fake")
    let asked = Atomic<Int>(0)
    let refusals = Mutex<[String]>([])
    let log = CollectedLog { line in
      guard line.contains("refused a worker") else { return }
      refusals.withLock { $0.append(line) }
      asked.store(1, ordering: .relaxed)
    }
    let coordinator = try CoordinatorProcess(run.settings(workers: 1, steps: 6), log: log.logger) {
      asked.load(ordering: .relaxed)
    }
    let worker = FakeWorker(address: coordinator.endpoint, name: "host", fault: .foreignDevice)
    Thread.detachNewThread { _ = try? worker.run() }
    guard case .stopped(4, _) = try coordinator.run() else {
      Issue.record("the run went on without workers")
      return
    }
    #expect(refusals.withLock { $0 }.allSatisfy { $0.contains("start a new run") })
  }

  @Test("losing a worker begins a generation without it, from the newest checkpoint where nobody holds the state")
  func loss() throws {
    let run = TestRun()
    let ended = run.run(run.settings(steps: 8), faults: [1: .dies(atStep: 5)])
    #expect(try outcome(ended) == .done(step: 8))
    #expect(ended.log.contains { $0.contains("generation 2: lost worker") })
    #expect(ended.log.contains { $0.contains("beginning with the state of step 4, from its checkpoint") })
    let steps = try Journal.reading(path: run.path + "/journal.sqlite").steps(0..<100)
    #expect(steps.map(\.record.step) == Array(0..<8))
    #expect(steps.map(\.record.generation.number) == [1, 1, 1, 1, 1, 2, 2, 2])
  }

  @Test("a machine that computes wrongly is expelled for good: in the journal, and off the list of keys")
  func expulsion() throws {
    let run = TestRun()
    try FileManager.default.createDirectory(atPath: run.path, withIntermediateDirectories: true)
    let list = run.path + "/authorized-keys"
    let pairs = [try KeyPair.generate(), try KeyPair.generate()]
    for (number, pair) in pairs.enumerated() {
      try AuthorizedKeys.authorize(.init(key: pair.publicKey, role: .worker, name: "host-\(number)"), in: list)
    }
    var settings = run.settings(steps: 8)
    settings.keys = try KeyPair.generate()
    let ended = run.run(settings, faults: [1: .breaks(atStep: 5)], keys: pairs)
    #expect(try outcome(ended) == .done(step: 8))
    #expect(ended.stops.contains { $0?.disposition == .failed && $0?.reason.contains("computes wrongly") == true })
    #expect(ended.log.contains { $0.contains("the key host-1 is revoked") })
    #expect(try AuthorizedKeys.read(list).entries.map(\.name) == ["host-0"])
    let expulsions = try Journal(path: run.path + "/journal.sqlite").expulsions()
    #expect(expulsions.map(\.host) == ["host-1"] && expulsions.first?.step == 5)
    #expect(try Ledger(RunDirectory(run.path)).verify().isGood)
  }

  @Test("a coordinator that another one has followed decides nothing any more") func superseded() throws {
    let run = TestRun()
    let ended = run.run(run.settings(steps: 200)) { _ in
      // As a coordinator on another host would, where the lock of this one is not seen.
      guard let journal = try? Journal(path: run.path + "/journal.sqlite") else { return }
      _ = try? journal.beginGeneration(host: "elsewhere", processID: 1, at: 0)
    }
    guard case .failed(69, let reason) = try outcome(ended) else {
      Issue.record("expected to be superseded, got \(ended.outcome)")
      return
    }
    #expect(reason.contains("another coordinator has taken over"))
    #expect(ended.stops.allSatisfy { $0 == nil }, "nobody obeys it: it says nothing")
  }

  @Test("replayed steps must reproduce") func replay() throws {
    let run = TestRun()
    let settings = run.settings(steps: 8)
    guard case .requeue(_, 4) = try outcome(run.run(settings, stopAtStep: 5, stopCount: 2)) else {
      Issue.record("expected requeue")
      return
    }

    // Step 4 was committed after the checkpoint of step 4: another result for it is refused.
    let drifting = run.run(settings, faults: [0: .drifts(atStep: 4), 1: .drifts(atStep: 4)])
    guard case .failed(70, let difference) = try outcome(drifting) else {
      Issue.record("expected a failure, got \(drifting.outcome)")
      return
    }
    #expect(difference.contains("step 4 did not reproduce") && difference.contains("language-model loss"))

    #expect(try outcome(run.run(settings)) == .done(step: 8))
    let steps = try Journal.reading(path: run.path + "/journal.sqlite").steps(0..<100)
    #expect(steps.map(\.record.step) == Array(0..<8))
    #expect(steps[4].record.generation == Generation(1), "the first record of a replayed step stays")
  }

  @Test("a damaged checkpoint is named and put aside; the one before it is used")
  func damagedCheckpoint() throws {
    let run = TestRun()
    #expect(try outcome(run.run(run.settings())) == .done(step: 6))
    let file = run.path + "/checkpoints/step-000000006/worker-1.h5"
    let handle = try FileHandle(forUpdating: URL(filePath: file))
    try handle.seek(toOffset: 1000)
    try handle.write(contentsOf: Data([0xFF, 0x00, 0xFF]))
    try handle.close()

    let ended = run.run(run.settings(steps: 7))
    #expect(try outcome(ended) == .done(step: 7))
    #expect(ended.log.contains { $0.contains("not using checkpoint of step 6: worker-1.h5") })
    #expect(ended.log.contains { $0.contains("resuming from the checkpoint of step 4") })

    var settings = run.settings(steps: 7)
    settings.resume = .step(5)
    let missing = run.run(settings)
    #expect(throws: CoordinatorError.self) { try outcome(missing) }
  }

  @Test("going back to an older checkpoint recomputes the steps after it and keeps the newer checkpoint")
  func goingBack() throws {
    let run = TestRun()
    #expect(try outcome(run.run(run.settings())) == .done(step: 6))
    let digest = try CheckpointStore(directory: run.path + "/checkpoints").digest(step: 6)
    var settings = run.settings(steps: 8)
    settings.resume = .step(4)
    let ended = run.run(settings)
    #expect(try outcome(ended) == .done(step: 8))
    #expect(ended.log.contains { $0.contains("steps 4 to 5 were committed after it") })
    let store = CheckpointStore(directory: run.path + "/checkpoints")
    #expect(try store.list().map(\.step) == [6, 8])
    #expect(try store.digest(step: 6) == digest)
  }

  @Test("a journal that has lost its newest steps is made whole from a checkpoint before them, not left with a gap")
  func lostRecords() throws {
    let run = TestRun()
    #expect(try outcome(run.run(run.settings())) == .done(step: 6))
    let store = CheckpointStore(directory: run.path + "/checkpoints")
    let digest = try store.digest(step: 6)
    let before = try Journal.reading(path: run.path + "/journal.sqlite").steps(0..<100).map(\.record)
    // As after a loss of power on a disk that had said that these are on it.
    try DatabaseQueue(path: run.path + "/journal.sqlite").write { database in
      try database.execute(sql: "DELETE FROM steps WHERE step >= 5")
      try database.execute(sql: "DELETE FROM checkpoints WHERE step > 4")
    }

    var settings = run.settings(steps: 8)
    settings.resume = .step(6)
    let refused = run.run(settings)
    #expect(throws: CoordinatorError.self) { try outcome(refused) }
    #expect("\(refused.outcome)".contains("goes from step 0 to 5, and step 6 is not within"))

    let ended = run.run(run.settings(steps: 8))
    #expect(try outcome(ended) == .done(step: 8))
    #expect(ended.log.contains { $0.contains("resuming from the checkpoint of step 4") })
    #expect(ended.log.contains { $0.contains("checkpoint of step 6 is not used: the journal ends at step 5") })
    let after = try Journal.reading(path: run.path + "/journal.sqlite").steps(0..<100).map(\.record)
    #expect(after.map(\.step) == Array(0..<8))
    for (old, new) in zip(before, after) { #expect(new.gradientSumOfSquares == old.gradientSumOfSquares) }
    #expect(try store.digest(step: 6) == digest)
  }

  @Test("checkpoints that cannot be written end the run with a storage failure") func diskFull() throws {
    let run = TestRun()
    let ended = run.run(run.settings(), faults: [0: .cannotWriteCheckpoints, 1: .cannotWriteCheckpoints])
    guard case .failed(74, let reason) = try outcome(ended) else {
      Issue.record("expected a failure, got \(ended.outcome)")
      return
    }
    #expect(reason.contains("no space left"))
  }

  @Test("a second coordinator, other data, another identity and a used port are refused with their class")
  func refusals() throws {
    let run = TestRun()
    let codes = Mutex<[Int32]>([])
    let settings = run.settings(steps: 3)
    let ended = run.run(settings) { _ in
      do { _ = try CoordinatorProcess(settings, log: CollectedLog { _ in }.logger) { 0 } } catch {
        if let error = error as? CoordinatorError { codes.withLock { $0.append(error.exitCode) } }
      }
      let other = TestRun()
      var used = other.settings()
      used.listen = RunDirectory(settings.runDirectory).liveCoordinator()?.address ?? ""
      do { _ = try CoordinatorProcess(used, log: CollectedLog { _ in }.logger) { 0 } } catch {
        if case .addressInUse = error as? TransportError { codes.withLock { $0.append(69) } }
      }
    }
    #expect(try outcome(ended) == .done(step: 3))
    #expect(codes.withLock { $0 } == [73, 69])

    func refusal(_ change: (inout CoordinatorSettings) -> Void) -> CoordinatorError? {
      var settings = run.settings(steps: 4)
      change(&settings)
      do {
        _ = try CoordinatorProcess(settings, log: CollectedLog { _ in }.logger) { 0 }
        return nil
      } catch { return error as? CoordinatorError }
    }
    #expect(refusal { $0.dataFingerprint = "other" }?.exitCode == 65)
    let identity = refusal { $0.identity = "seed: 2\nwidth: 8" }
    #expect(identity?.exitCode == 78)
    #expect(identity?.description.contains("seed: 1 became seed: 2") == true)
    #expect(refusal { $0.checkpointEvery = 1 } == nil)
  }

  @Test("status is answered within 100 ms while training, and from the journal afterwards") func status() throws {
    let run = TestRun()
    let live = Mutex<[(report: StatusReport, seconds: Double)]>([])
    let ended = run.run(run.settings(steps: 40)) { address in
      for _ in 0..<5 {
        let begin = Date()
        if let report = try? StatusQuery.ask(address, timeoutSeconds: 5, allowPlaintext: false) {
          live.withLock { $0.append((report, Date().timeIntervalSince(begin))) }
        }
        Thread.sleep(forTimeInterval: 0.02)
      }
    }
    #expect(try outcome(ended) == .done(step: 40))
    let answers = live.withLock { $0 }
    #expect(!answers.isEmpty)
    for (report, seconds) in answers {
      #expect(report.live && report.totalSteps == 40 && report.tokens == report.step * 512)
      #expect(seconds < 0.5, "an idle machine answers within 0.1 s; tests share theirs")
      #expect(report.workers.count <= 2)
      #expect(try StatusReport(json: report.json()) == report)
    }
    let offline = try StatusReport.offline(RunDirectory(run.path), now: Date().timeIntervalSince1970)
    #expect(!offline.live && offline.state == "done" && offline.step == 40 && offline.stepsToLose == 0)
    #expect(offline.outcome?.exitCode == 0 && offline.workers.count == 2)
    #expect(offline.text(width: 60).contains("step 40 of 40, 100.0 %"))

    // The journal still remembers the checkpoint; without its manifest nothing can be resumed from it.
    let store = CheckpointStore(directory: run.path + "/checkpoints")
    try FileManager.default.removeItem(atPath: store.directory(of: 40) + "/manifest.json")
    let less = try StatusReport.offline(RunDirectory(run.path), now: Date().timeIntervalSince1970)
    #expect(less.lastCheckpoint?.step == 38 && less.stepsToLose == 2)
  }

  @Test("garbage and strangers disturb nobody") func garbage() throws {
    let run = TestRun()
    let ended = run.run(run.settings(steps: 20)) { address in
      guard let client = try? ControlClient(address: address) else { return }
      for _ in 0..<50 {
        try? client.send(
          Envelope(
            run: RunID("00000000000000000000000000000000"), generation: Generation(1), sender: .worker(WorkerID(1)),
            message: .failed(kind: .data, reason: "a lie")))
        try? client.send(
          Envelope(run: RunID(""), generation: Generation(1), sender: .coordinator, message: .runStep(step: 3)))
        _ = try? client.poll(timeoutMilliseconds: 5)
      }
    }
    #expect(try outcome(ended) == .done(step: 20))
  }
}
