import ClusterModel
import ControlPlane
import Coordinator
import Foundation
import GRDB
import Testing

/// A run directory with a journal as a coordinator writes it: 12 steps of 8 samples in generations 1 and 3 (the
/// second never had workers), a worker expelled by step 6, a range skipped before step 7 and one after the newest step.
private struct LedgerRun {
  let directory: RunDirectory
  private let removal: Removal

  static let leaves = 4
  static func plan(_ first: UInt32, leaves: [Range<Int>]) -> Plan {
    Plan(
      stageUnits: [0..<2, 2..<5], replicaLeaves: leaves,
      places: leaves.indices.map { [WorkerID(first + UInt32($0) * 2), WorkerID(first + UInt32($0) * 2 + 1)] },
      spares: [WorkerID(9)], schedule: .gpipe)
  }

  init() throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "ledger-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    directory = RunDirectory(path)
    removal = Removal(path: path)
    let journal = try Journal(path: directory.journal)
    try journal.set(.run, "r")
    try journal.set(.samplesPerStep, "8")
    try journal.set(.tokensPerStep, "512")
    try journal.set(.totalSteps, "12")
    try journal.set(.leaves, "\(Self.leaves)")
    try journal.set(.outcome, #"{"kind":"done","reason":"","exitCode":0}"#)
    _ = try journal.beginGeneration(host: "h", processID: 1, at: 0)
    let (first, third) = (Generation(1), Generation(3))
    for number in [1, 2, 3, 4, 9] as [UInt32] { try journal.record(worker(number, first, host: "host-\(number)")) }
    try journal.record(
      PlanRecord(
        generation: first, fromStep: 0, plan: Self.plan(1, leaves: [0..<1, 1..<4]), reasons: [],
        deviceFingerprint: "d"))
    var skips = SkippedSamples()
    for step in 0..<12 as Range<Step> {
      if step == 6 {
        for start in [1, 2] { _ = try journal.beginGeneration(host: "h", processID: 1, at: Double(start)) }
        // Worker 3 comes back from another host; worker 4 was never away.
        try journal.record(worker(3, third, host: "host-elsewhere"))
        try journal.record(
          PlanRecord(
            generation: third, fromStep: 4, plan: Self.plan(3, leaves: [0..<4]), reasons: [], deviceFingerprint: "d"))
      }
      if step == 6 {
        for reason in ["it was wrong", "again"] {
          try journal.record(
            ExpulsionRecord(worker: WorkerID(1), host: "host-1", step: 6, generation: third, reason: reason))
        }
      }
      if step == 7 { try skip(journal, &skips, 7, third, "the language-model loss is not finite") }
      #expect(
        try journal.commit(
          Self.record(step, step < 6 ? first : third, skips), seconds: 1, at: Double(step)) == .committed)
    }
    for step in [4, 8, 12] as [Step] {
      try journal.record(
        JournaledCheckpoint(
          step: step, nextSample: skips.nextSample(step, perStep: 8), digest: "d", sizeBytes: 1, committedAtSeconds: 1),
        generation: step < 6 ? first : third)
    }
    try journal.record(
      EvaluationRecord(
        step: 12, generation: third, languageModelLoss: 1, diffusionLoss: nil, targetTokens: 3, images: 0), at: 1)
    try skip(journal, &skips, 12, third, "a spike")
  }

  static func record(_ step: Step, _ generation: Generation, _ skips: SkippedSamples) -> StepRecord {
    StepRecord(
      step: step, generation: generation, samples: skips.samples(step: step, perStep: 8), tokens: 512,
      targetTokens: step == 5 ? 0 : 40, images: 4, languageModelLoss: step == 5 ? nil : 3 - Double(step) / 10,
      diffusionLoss: 0.25, gradientSumOfSquares: 4, learningRate: 1e-3)
  }
  private func worker(_ number: UInt32, _ generation: Generation, host: String) -> WorkerRecord {
    WorkerRecord(
      worker: WorkerID(number), generation: generation, host: host, processID: 1, deviceFingerprint: "d",
      gigaflopsPerSecond: 1)
  }
  private func skip(
    _ journal: Journal, _ skips: inout SkippedSamples, _ step: Step, _ generation: Generation, _ reason: String
  ) throws {
    let range = skips.samples(step: step, perStep: 8)
    let record = SkipRecord(samples: range, generation: generation, reason: reason)
    try journal.record(record)
    try journal.record(record)
    try skips.insert(range, perStep: 8)
  }

  /// Changes the journal behind everybody's back.
  func tamper(_ sql: String) throws {
    var configuration = Configuration()
    configuration.foreignKeysEnabled = false
    try DatabaseQueue(path: directory.journal, configuration: configuration).write { try $0.execute(sql: sql) }
  }
  func problems(_ sql: String) throws -> [String] {
    try tamper(sql)
    return try Ledger(directory).verify().problems.map(\.description)
  }

  private final class Removal: Sendable {
    let path: String
    init(path: String) { self.path = path }
    deinit { try? FileManager.default.removeItem(atPath: path) }
  }
}

@Suite("Ledger") struct LedgerTests {
  @Test("a journal as it is written is proven") func good() throws {
    let run = try LedgerRun()
    let findings = try Ledger(run.directory).verify { _ in StepDenominators(targetTokens: 40, images: 4) }
    // Step 5 has no targets.
    #expect(findings.problems.map(\.description).count == 1 && !findings.isGood)
    let alone = try Ledger(run.directory).verify()
    #expect(alone.isGood, "\(alone.problems)")
    #expect(alone.steps == 12 && alone.samples == 96 && alone.generations == 2 && alone.checkpoints == 3)
    #expect(alone.nextSample == 104)
    #expect(alone.skips.map(\.record.samples) == [56..<64, 104..<112])
    #expect(alone.skips.map(\.step) == [7, 12])
  }

  /// What is done to the journal, and what the list must say of it.
  static let tampering: [(sql: String, finding: String)] = [
    ("DELETE FROM steps WHERE step = 3", "step 3 is missing"),
    ("DELETE FROM steps WHERE step = 0", "step 0 is missing"),
    ("DELETE FROM steps WHERE step BETWEEN 6 AND 8", "steps 6 to 8 are missing"),
    ("DELETE FROM steps WHERE step = 11", "step 11 is missing"),
    ("DELETE FROM steps WHERE step = 11", "checkpoint of step 12: only 11 steps are committed"),
    ("DELETE FROM steps WHERE step > 9", "validation of step 12: only 10 steps are committed"),
    ("UPDATE steps SET first_sample = 12 WHERE step = 2", "samples 12..<16 of step 2 were consumed by a step before"),
    (
      "UPDATE steps SET first_sample = first_sample - 8, next_sample = next_sample - 8 WHERE step = 4",
      "samples 24..<32 of step 4 were consumed by a step before"
    ),
    (
      "UPDATE steps SET first_sample = first_sample + 4, next_sample = next_sample + 4 WHERE step = 4",
      "samples 32..<36 before step 4 were consumed by no step and are not skipped"
    ),
    ("UPDATE steps SET next_sample = 1000 WHERE step = 11", "step 11 has 904 samples; a step of this run has 8"),
    ("UPDATE steps SET next_sample = 3 WHERE step = 2", "steps, row 2: its samples begin at 16 and end at 3"),
    ("UPDATE steps SET first_sample = -8 WHERE step = 2", "steps, row 2: first_sample is -8, not a count"),
    ("UPDATE steps SET tokens = 'many' WHERE step = 2", "tokens is \"many\", not a count"),
    ("UPDATE steps SET step = -1 WHERE step = 11", "steps, row -1: step is -1, not a count"),
    ("DELETE FROM skipped WHERE first_sample = 56", "samples 56..<64 before step 7 were consumed by no step"),
    (
      "UPDATE skipped SET next_sample = 60 WHERE first_sample = 56",
      "samples 60..<64 before step 7 were consumed by no step"
    ),
    ("UPDATE skipped SET next_sample = 68 WHERE first_sample = 56", "skipped samples 56..<68 were consumed by step 7"),
    (
      "UPDATE skipped SET first_sample = 58 WHERE first_sample = 56",
      "skipped samples 58..<64 are not where a step would begin: the last step ends at sample 56"
    ),
    (
      "INSERT INTO skipped VALUES (16, 24, 1, 'why')",
      "skipped samples 16..<24 were consumed by step 2"
    ),
    ("INSERT INTO skipped VALUES (58, 60, 3, 'why')", "skipped samples 56..<64 overlap skipped samples 58..<60"),
    (
      "INSERT INTO skipped VALUES (400, 408, 3, 'why')",
      "skipped samples 400..<408 are not where a step would begin: the last step ends at sample 104"
    ),
    ("UPDATE skipped SET generation = 8", "the skip of samples 56..<64 is of generation 8, which was never begun"),
    ("UPDATE skipped SET reason = x'00' WHERE first_sample = 56", "before step 7 were consumed by no step"),
    ("DELETE FROM plans WHERE generation = 3", "the plan of generation 3, which committed step 6, is missing"),
    ("UPDATE plans SET from_step = 8 WHERE generation = 3", "step 6 is of generation 3, whose plan begins with step 8"),
    ("UPDATE plans SET plan = '{}' WHERE generation = 1", "plans, row 1: the plan cannot be read"),
    ("DELETE FROM generations WHERE generation = 3", "step 6 is of generation 3, which was never begun"),
    ("UPDATE steps SET generation = 1 WHERE step = 8", "step 8 is of generation 1, the step before of the later"),
    ("DELETE FROM workers WHERE worker = 2", "plan of generation 1: worker 2 has a place, but never joined"),
    ("UPDATE workers SET generation = 2 WHERE worker = 4", "plan of generation 1: worker 4 has a place, but never"),
    ("UPDATE steps SET tokens = 500 WHERE step = 2", "step 2: 500 tokens; a step of this run has 512"),
    ("UPDATE steps SET target_tokens = 600 WHERE step = 2", "step 2: 600 target tokens among 512 tokens"),
    ("UPDATE steps SET target_tokens = 0 WHERE step = 2", "step 2: a language-model loss of 0 target tokens"),
    ("UPDATE steps SET diffusion_loss = NULL WHERE step = 2", "step 2: no diffusion loss of 4 images"),
    ("UPDATE steps SET language_model_loss = 9e999 WHERE step = 2", "step 2: the language-model loss is not finite"),
    ("UPDATE steps SET gradient_sum_of_squares = -1 WHERE step = 2", "step 2: the squared gradient norm is -1.0"),
    ("UPDATE checkpoints SET next_sample = 56 WHERE step = 8", "checkpoint of step 8: it stands at sample 56"),
    ("UPDATE checkpoints SET generation = 7 WHERE step = 8", "the checkpoint of step 8 is of generation 7, which was"),
    ("DELETE FROM facts WHERE name = 'samplesPerStep'", "the fact 'samplesPerStep' is missing"),
  ]

  @Test("what was changed is found", arguments: tampering.indices) func tampered(_ index: Int) throws {
    let (sql, finding) = Self.tampering[index]
    let problems = try LedgerRun().problems(sql)
    #expect(problems.contains { $0.contains(finding) }, "\(sql) gave \(problems), not '\(finding)'")
  }

  @Test("a plan must give every leaf to one replica, and every place to one worker") func plans() throws {
    func change(_ edit: (inout Plan) -> Void) throws -> [String] {
      var plan = LedgerRun.plan(1, leaves: [0..<1, 1..<4])
      edit(&plan)
      let json = String(decoding: try JSONEncoder().encode(plan), as: UTF8.self)
      return try LedgerRun().problems("UPDATE plans SET plan = '\(json)' WHERE generation = 1")
    }
    #expect(try change { _ in } == [])
    for (leaves, finding) in [
      ([0..<1, 2..<4], "no replica has leaf 1"), ([0..<2, 1..<4], "leaf 1 of replica 1 belong to another replica"),
      ([0..<1, 1..<3], "3 of 4 leaves are planned"), ([0..<1, 1..<9], "9 of 4 leaves are planned"),
      ([0..<4, 0..<4], "leaf 0 to 3 of replica 1 belong to another"), ([-5..<1, 1..<4], "leaf 0 of replica 0"),
      ([Int.min..<1, 1..<Int.max], "leaves are planned"), ([], "0 of 4 leaves are planned"),
    ] as [([Range<Int>], String)] {
      let problems = try change { $0.replicaLeaves = leaves }
      #expect(problems.contains { $0.contains("plan of generation 1") && $0.contains(finding) }, "\(problems)")
    }
    for (edit, finding) in [
      ({ $0.places[1][0] = WorkerID(1) }, "worker 1 has two places"),
      ({ $0.places[1].removeLast() }, "replica 1 has 1 workers for 2 stages"),
      ({ $0.places.removeLast() }, "2 replicas, but workers for 1"),
      ({ $0.stageUnits = [0..<2, 3..<5] }, "no stage has model unit 2"),
    ] as [((inout Plan) -> Void, String)] {
      let problems = try change(edit)
      #expect(problems.contains { $0.contains(finding) }, "\(problems)")
    }
  }

  @Test("counts are compared with those of the data") func counts() throws {
    let run = try LedgerRun()
    let findings = try Ledger(run.directory).verify { samples in
      StepDenominators(targetTokens: samples.contains(40) ? 0 : 40, images: samples.lowerBound == 8 ? 3 : 4)
    }
    #expect(
      findings.problems.map(\.description)
        == ["step 1: 40 target tokens and 4 images; the data index says 40 and 3"])
  }

  @Test("entries name who computed which leaf, and stand beside what was skipped") func entries() throws {
    let run = try LedgerRun()
    var lines: [String] = []
    try Ledger(run.directory).forEachEntry(in: 5...(.max)) { entry in
      switch entry {
      case .skipped(let skip, let step): lines.append("skipped \(skip.samples) before \(step)")
      case .expelled(let expulsion): lines.append("expelled \(expulsion.worker): \(expulsion.reason)")
      case .step(let step, let replicas):
        let names = replicas.map { replica in
          "\(replica.firstLeaf)-\(replica.lastLeaf) "
            + replica.workers.map { "\($0.id)@\($0.host)/\($0.stage)" }.joined(separator: " ")
        }
        lines.append("\(step.record.step): \(names.joined(separator: ", "))")
      }
    }
    let later = "0-3 3@host-elsewhere/0 4@host-4/1"
    #expect(
      lines == [
        "5: 0-0 1@host-1/0 2@host-2/1, 1-3 3@host-3/0 4@host-4/1", "expelled worker 1: it was wrong", "6: \(later)",
        "skipped 56..<64 before 7",
        "7: \(later)", "8: \(later)", "9: \(later)", "10: \(later)", "11: \(later)", "skipped 104..<112 before 12",
      ])
    var shown: [Step] = []
    try Ledger(run.directory).forEachEntry(in: 7...7) { entry in
      switch entry {
      case .skipped(_, let step): shown.append(100 + step)
      case .expelled(let expulsion): shown.append(200 + expulsion.step)
      case .step(let step, _): shown.append(step.record.step)
      }
    }
    #expect(shown == [107, 7])
    #expect(try Ledger(run.directory).newestStep() == 11)
  }

  @Test("an entry's JSON is one object on one line") func json() throws {
    var objects: [[String: Any]] = []
    let run = try LedgerRun()
    try Ledger(run.directory).forEachEntry(in: 6...8) { entry in
      let json = try entry.json()
      #expect(!json.contains("\n"))
      objects.append(try #require(try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]))
    }
    #expect(objects.count == 5)
    #expect(objects[0]["kind"] as? String == "expelled" && objects[0]["worker"] as? Int == 1)
    #expect(objects[0]["host"] as? String == "host-1" && objects[0]["beforeStep"] as? Int == 6)
    objects.removeFirst(2)
    #expect(objects[0]["kind"] as? String == "skipped" && objects[0]["beforeStep"] as? Int == 7)
    #expect(objects[1]["kind"] as? String == "step" && objects[1]["firstSample"] as? Int == 64)
    #expect(objects[1]["gradientNorm"] as? Double == 2 && objects[1]["generation"] as? Int == 3)
    #expect((objects[1]["computedBy"] as? [[String: Any]])?.first?["lastLeaf"] as? Int == 3)
  }

  @Test("who was expelled has no place in a later plan, and is remembered") func expelled() throws {
    let run = try LedgerRun()
    #expect(try Journal(path: run.directory.journal).expulsions().map(\.worker) == [WorkerID(1)])
    #expect(try run.problems("UPDATE expelled SET worker = 3").isEmpty)
    #expect(
      try run.problems("UPDATE expelled SET generation = 2") == [
        "plan of generation 3: worker 3 has a place, but was expelled in generation 2"
      ])
    // As a journal was before there was such a table.
    try run.tamper("DROP TABLE expelled")
    #expect(try Ledger(run.directory).verify().isGood)
    try Ledger(run.directory).forEachEntry(in: 0...(.max)) { if case .expelled = $0 { Issue.record("\($0)") } }
  }

  @Test("a damaged journal is an error that names the row, and never a crash") func damaged() throws {
    let run = try LedgerRun()
    try run.tamper("UPDATE steps SET first_sample = -5 WHERE step = 9")
    #expect(throws: CoordinatorError.self) { try Ledger(run.directory).forEachEntry(in: 0...20) { _ in } }
    try run.tamper("DROP TABLE plans")
    #expect(throws: CoordinatorError.self) { try Ledger(run.directory).verify() }
    #expect(throws: CoordinatorError.self) { try Ledger(RunDirectory("/nonexistent")) }
  }

  @Test("whatever stands in whatever column, it is a fault or nothing, and never a crash") func anything() throws {
    let columns: [String: [String]] = [
      "facts": ["value"], "generations": ["generation"], "plans": ["generation", "from_step", "plan"],
      "workers": ["worker", "generation", "host", "process_id", "device", "gigaflops"],
      "steps": [
        "step", "generation", "first_sample", "next_sample", "tokens", "target_tokens", "images",
        "language_model_loss", "diffusion_loss", "gradient_sum_of_squares", "learning_rate", "seconds", "committed_at",
      ],
      "checkpoints": ["step", "generation", "next_sample"], "validations": ["step", "generation"],
      "skipped": ["first_sample", "next_sample", "generation", "reason"],
      "expelled": ["worker", "host", "step", "generation", "reason"],
    ]
    let values = ["NULL", "-1", "0", "'x'", "x'00ff'", "1e300", "-9e999", "\(Int64.max)", "\(Int64.min)"]
    var faulty = 0
    for (table, names) in columns.sorted(by: { $0.key < $1.key }) {
      for name in names {
        let run = try LedgerRun()
        for value in values {
          for condition in ["", " WHERE rowid = (SELECT max(rowid) FROM \(table))"] {
            // What the table's own constraints refuse needs no other guard.
            guard (try? run.tamper("UPDATE OR REPLACE \(table) SET \(name) = \(value)\(condition)")) != nil else {
              continue
            }
            let ledger = try Ledger(run.directory)
            if !(try ledger.verify().isGood) { faulty += 1 }
            try? ledger.forEachEntry(in: 0...(.max)) { _ = try $0.json() }
            try? ledger.forEachEntry(in: 3...4) { _ = try $0.json() }
            _ = try? Journal.reading(path: run.directory.journal).skippedSamples(perStep: 8)
          }
        }
      }
    }
    #expect(faulty > 200)
  }

  @Test("it is read while a coordinator writes") func live() throws {
    let run = try LedgerRun()
    let journal = try Journal(path: run.directory.journal)
    let ledger = try Ledger(run.directory)
    let skips = try journal.skippedSamples(perStep: 8)
    for step in 12..<40 as Range<Step> {
      #expect(try journal.commit(LedgerRun.record(step, Generation(3), skips), seconds: 1, at: 1) == .committed)
      let findings = try ledger.verify()
      #expect(findings.isGood && findings.steps == step + 1, "\(findings.problems)")
    }
  }
}

@Suite("Ledger of a run") struct LedgerRunTests {
  private func add(_ samples: Range<UInt64>, to run: TestRun) throws {
    let database = try DatabaseQueue(path: run.path + "/journal.sqlite")
    try database.write {
      try $0.execute(
        sql: "INSERT INTO skipped VALUES (?, ?, 1, 'a test')",
        arguments: [Int64(samples.lowerBound), Int64(samples.upperBound)])
    }
  }
  private func opens(_ run: TestRun) throws {
    _ = try CoordinatorProcess(run.settings(steps: 6), log: CollectedLog { _ in }.logger) { 0 }
  }

  @Test("the journal of a stopped run is proven, and its checkpoints stand where its skips say") func opening() throws {
    let run = TestRun()
    _ = try run.run(run.settings(steps: 6), stopAtStep: 3).outcome.get()
    let ledger = try Ledger(RunDirectory(run.path))
    let findings = try ledger.verify()
    #expect(findings.isGood && findings.steps >= 3, "\(findings.problems)")
    var workers: Set<UInt32> = []
    try ledger.forEachEntry(in: 0...(.max)) { entry in
      guard case .step(_, let replicas) = entry else { return }
      #expect(replicas.map(\.firstLeaf) == [0, 1] && replicas.map(\.lastLeaf) == [0, 1])
      for worker in replicas.flatMap(\.workers) {
        #expect(worker.host.hasPrefix("host-"))
        workers.insert(worker.id)
      }
    }
    #expect(workers == [1, 2])
    // What is skipped after the newest state does not move it.
    try add(findings.nextSample..<findings.nextSample + 8, to: run)
    try opens(run)
    // What is skipped before would.
    try add(0..<8, to: run)
    #expect(throws: CoordinatorError.self) { try opens(run) }
    #expect(try !ledger.verify().isGood)
  }
}

@Suite("Skips in the journal") struct JournalSkipTests {
  private func journal(_ body: (Journal) throws -> Void) throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "journal-\(UUID().uuidString).sqlite").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    let journal = try Journal(path: path)
    _ = try journal.beginGeneration(host: "h", processID: 1, at: 0)
    try body(journal)
  }
  private func skip(_ samples: Range<UInt64>, _ reason: String = "bad") -> SkipRecord {
    SkipRecord(samples: samples, generation: Generation(1), reason: reason)
  }
  private func commit(_ journal: Journal, _ step: Step, _ samples: Range<UInt64>) throws -> Journal.CommitResult {
    var record = LedgerRun.record(step, Generation(1), SkippedSamples())
    record.samples = samples
    return try journal.commit(record, seconds: 1, at: 1)
  }

  @Test("a step's samples must be the next ones, skips left out") func contiguous() throws {
    try journal { journal in
      guard case .differs(let reason) = try commit(journal, 0, 8..<16) else {
        Issue.record("the stream does not begin at its beginning")
        return
      }
      #expect(reason.contains("the next one is 0"))
      try journal.record(skip(0..<8))
      #expect(try commit(journal, 0, 8..<16) == .committed)
      try journal.record(skip(16..<24))
      try journal.record(skip(24..<32, "again"))
      for samples in [16..<24, 24..<32, 40..<48] as [Range<UInt64>] {
        guard case .differs = try commit(journal, 1, samples) else {
          Issue.record("step 1 consumed \(samples)")
          continue
        }
      }
      #expect(try commit(journal, 1, 32..<40) == .committed)
      #expect(try journal.skips() == [skip(0..<8), skip(16..<24), skip(24..<32, "again")])
      #expect(try journal.skippedSamples(perStep: 8).ranges == [0..<8, 16..<32])
      try journal.set(.samplesPerStep, "8")
      guard case .differs = try commit(journal, 2, 40..<52) else {
        Issue.record("a step of another size")
        return
      }
    }
  }

  @Test("only what the next step would consume can be skipped, once") func refused() throws {
    try journal { journal in
      #expect(try commit(journal, 0, 0..<8) == .committed)
      for samples in [0..<8, 4..<12, 12..<20, 16..<24] as [Range<UInt64>] {
        #expect(throws: CoordinatorError.self) { try journal.record(skip(samples)) }
      }
      try journal.record(skip(8..<16))
      try journal.record(skip(8..<16, "another reason"))
      #expect(throws: CoordinatorError.self) { try journal.record(skip(8..<24)) }
      #expect(try journal.skips() == [skip(8..<16)])
    }
  }
}
