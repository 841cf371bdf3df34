import ClusterModel
import ControlPlane
import Foundation
import GRDB

/// A committed step with when and how long.
public struct JournaledStep: Hashable, Sendable {
  public var record: StepRecord
  /// Wall time from the step's begin to its commit.
  public var seconds: Double
  /// When it was committed, in seconds since 1970; nil for one that was not read back from the journal.
  public var committedAtSeconds: Double?
}

/// A committed checkpoint.
public struct JournaledCheckpoint: Hashable, Sendable {
  public var step: Step
  public var nextSample: UInt64
  public var digest: String
  public var sizeBytes: UInt64
  public var committedAtSeconds: Double

  public init(step: Step, nextSample: UInt64, digest: String, sizeBytes: UInt64, committedAtSeconds: Double) {
    self.step = step
    self.nextSample = nextSample
    self.digest = digest
    self.sizeBytes = sizeBytes
    self.committedAtSeconds = committedAtSeconds
  }
}

extension Journal {
  /// What became of a step that was to be committed.
  public enum CommitResult: Hashable, Sendable {
    case committed
    /// The journal had it, with the same bits: the first record stays.
    case reproduced
    /// The journal had it otherwise: one of the two computations is wrong.
    case differs(reason: String)
  }

  /// Commits a step, durably. Steps must follow each other, and so must their samples but for what is skipped; a
  /// step that is there already is compared bit by bit.
  public func commit(_ record: StepRecord, seconds: Double, at now: Double) throws(CoordinatorError) -> CommitResult {
    try fenced(record.generation) { database in
      if let row = try Row.fetchOne(
        database, sql: "SELECT * FROM steps WHERE step = ?", arguments: [Int64(record.step)])
      {
        let old = try JournalRows.step(row).record
        let differences = Self.differences(old, record)
        return differences.isEmpty
          ? .reproduced
          : .differs(
            reason: "step \(record.step) did not reproduce what \(old.generation) committed: "
              + differences.joined(separator: ", "))
      }
      if let newest = try Int64.fetchOne(database, sql: "SELECT max(step) FROM steps"),
        UInt64(newest) + 1 != record.step
      {
        return .differs(
          reason: "step \(record.step) cannot follow step \(newest): the steps between are not in the journal")
      }
      if let reason = try Self.misplacement(of: record, database) { return .differs(reason: reason) }
      try database.execute(
        sql: "INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        arguments: [
          Int64(record.step), Int64(record.generation.number), Int64(record.samples.lowerBound),
          Int64(record.samples.upperBound), Int64(record.tokens), Int64(record.targetTokens), Int64(record.images),
          record.languageModelLoss, record.diffusionLoss, record.gradientSumOfSquares, record.learningRate, seconds,
          now,
        ])
      return .committed
    }
  }

  /// What the state depends on, bit by bit. The learning rate is first to tell that the total number of steps,
  /// and with it the schedule, was changed in between.
  private static func differences(_ old: StepRecord, _ new: StepRecord) -> [String] {
    var differences: [String] = []
    func compare<Value: Equatable>(_ name: String, _ a: Value, _ b: Value) {
      if a != b { differences.append("\(name) \(a) became \(b)") }
    }
    compare("samples", old.samples, new.samples)
    compare("target tokens", old.targetTokens, new.targetTokens)
    compare("images", old.images, new.images)
    func compareBits(_ name: String, _ a: Double?, _ b: Double?) {
      guard a?.bitPattern != b?.bitPattern else { return }
      differences.append("\(name) \(a.map { "\($0)" } ?? "none") became \(b.map { "\($0)" } ?? "none")")
    }
    compareBits("language-model loss", old.languageModelLoss, new.languageModelLoss)
    compareBits("diffusion loss", old.diffusionLoss, new.diffusionLoss)
    compareBits("squared gradient norm", old.gradientSumOfSquares, new.gradientSumOfSquares)
    compareBits("learning rate", old.learningRate, new.learningRate)
    return differences
  }

  /// Records losses of a state; a state that is recorded already keeps its first record.
  public func record(_ evaluation: EvaluationRecord, at now: Double) throws(CoordinatorError) {
    try write { database in
      try database.execute(
        sql: "INSERT OR IGNORE INTO validations VALUES (?, ?, ?, ?, ?, ?, ?)",
        arguments: [
          Int64(evaluation.step), Int64(evaluation.generation.number), evaluation.languageModelLoss,
          evaluation.diffusionLoss, Int64(evaluation.targetTokens), Int64(evaluation.images), now,
        ])
    }
  }

  public func record(_ checkpoint: JournaledCheckpoint, generation: Generation) throws(CoordinatorError) {
    try write { database in
      try database.execute(
        sql: "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?, ?)",
        arguments: [
          Int64(checkpoint.step), Int64(generation.number), Int64(checkpoint.nextSample), checkpoint.digest,
          Int64(checkpoint.sizeBytes), checkpoint.committedAtSeconds,
        ])
    }
  }

  // MARK: Reading

  /// The newest committed steps, ascending, at most so many.
  public func newestSteps(_ count: Int) throws(CoordinatorError) -> [JournaledStep] {
    try read { database in
      try Row.fetchAll(database, sql: "SELECT * FROM steps ORDER BY step DESC LIMIT ?", arguments: [count])
        .map(JournalRows.step).reversed()
    }
  }

  /// Committed steps in a range, ascending.
  public func steps(_ range: Range<Step>) throws(CoordinatorError) -> [JournaledStep] {
    try read { database in
      try Row.fetchAll(
        database, sql: "SELECT * FROM steps WHERE step >= ? AND step < ? ORDER BY step",
        arguments: [Int64(clamping: range.lowerBound), Int64(clamping: range.upperBound)]
      ).map(JournalRows.step)
    }
  }

  /// Recorded validation losses, ascending by state.
  public func validations() throws(CoordinatorError) -> [EvaluationRecord] {
    try read { database in
      try Row.fetchAll(database, sql: "SELECT * FROM validations ORDER BY step").map(JournalRows.evaluation)
    }
  }

  /// Committed checkpoints, ascending; retention may have removed their files since.
  public func checkpoints() throws(CoordinatorError) -> [JournaledCheckpoint] {
    try read { database in
      try Row.fetchAll(database, sql: "SELECT * FROM checkpoints ORDER BY step").map(JournalRows.checkpoint)
    }
  }

  /// The newest plan and its generation.
  public func newestPlan() throws(CoordinatorError) -> (generation: Generation, plan: Plan)? {
    try read { database in
      guard
        let row = try Row.fetchOne(
          database, sql: "SELECT generation, plan FROM plans ORDER BY generation DESC LIMIT 1")
      else { return nil }
      let plan = try JSONDecoder().decode(Plan.self, from: Data(try JournalRows.text(row, "plan").utf8))
      return (try JournalRows.generation(row), plan)
    }
  }

  /// The workers of a plan, by ID, each as it joined last.
  public func workers(in plan: Plan) throws(CoordinatorError) -> [WorkerRecord] {
    try read { database in
      try (plan.places.flatMap { $0 } + plan.spares).sorted().compactMap { worker in
        try Row.fetchOne(
          database, sql: "SELECT * FROM workers WHERE worker = ? ORDER BY generation DESC LIMIT 1",
          arguments: [Int64(worker.number)]
        ).map(JournalRows.worker)
      }
    }
  }

  /// When a generation began, in seconds since 1970; nil where there is none.
  public func beginning(of generation: Generation) throws(CoordinatorError) -> Double? {
    try read {
      try Double.fetchOne(
        $0, sql: "SELECT started_at FROM generations WHERE generation = ?", arguments: [Int64(generation.number)])
    }
  }

  public func newestGeneration() throws(CoordinatorError) -> Generation {
    Generation(try read { try JournalRows.newest($0, "generation", of: "generations") } ?? 0)
  }

  /// The lowest worker number never given.
  func nextWorkerNumber() throws(CoordinatorError) -> UInt32 {
    try read { database in
      let newest = try JournalRows.newest(database, "worker", of: "workers") ?? 0
      guard newest < UInt64(UInt32.max) else { throw JournalRowFault(reason: "there is a worker \(newest)") }
      return UInt32(newest) + 1
    }
  }

  /// Committed steps: one more than the newest, 0 without any.
  public func committedSteps() throws(CoordinatorError) -> Step {
    guard let newest = try read({ try JournalRows.newest($0, "step", of: "steps") }) else { return 0 }
    return newest + 1
  }
}
