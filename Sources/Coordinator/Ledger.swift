import ClusterModel
import ControlPlane
import Foundation
import GRDB

/// The account of a run, from its journal alone: what every committed step consumed and who computed it.
///
/// Reads only, so that it works beside a live coordinator as well as offline; each call sees one state of the
/// journal. The journal is not trusted: rows that make no sense are named and never trap.
public struct Ledger: Sendable {
  private let journal: Journal

  /// - Throws: ``CoordinatorError/notARun(path:)`` when there is no journal.
  public init(_ directory: RunDirectory) throws(CoordinatorError) {
    guard directory.hasJournal else { throw .notARun(path: directory.path) }
    journal = try Journal.reading(path: directory.journal)
  }

  /// What counts of every step's samples must be, from somewhere else than the journal (the data index).
  public typealias Counts = (Range<UInt64>) throws -> StepDenominators

  /// Proves that each sample was consumed exactly once, or lists what speaks against it.
  ///
  /// - Parameter counts: compared with each step's target tokens and images where it is given.
  public func verify(counts: Counts? = nil) throws(CoordinatorError) -> LedgerFindings {
    try journal.read { database in
      var faults: [LedgerProblem] = []
      let contents = try Self.contents(database, &faults)
      var verifier = LedgerVerifier(contents)
      for fault in faults { verifier.report(fault) }
      let rows = try Row.fetchCursor(database, sql: "SELECT * FROM steps ORDER BY step")
      while let row = try rows.next() {
        do throws(JournalRowFault) {
          let record = try JournalRows.step(row).record
          verifier.accept(record)
          if let counts, let problem = Self.difference(record, counts) { verifier.report(problem) }
        } catch {
          if let step = try? JournalRows.number(row, "step") {
            verifier.acceptUnreadable(step, reason: error.reason)
          } else {
            verifier.report(.unreadable(table: "steps", row: "\(JournalRows.value(row, "step"))", reason: error.reason))
          }
        }
      }
      return verifier.finish()
    }
  }

  /// The entries of steps in a range that were committed when it is called, ascending, each after the workers that were
  /// expelled by it and the ranges that were skipped right before it.
  ///
  /// - Parameter body: called outside of any transaction: it may take its time.
  /// - Throws: ``CoordinatorError/journal(path:reason:)`` for rows that make no sense as well, and what `body` throws.
  public func forEachEntry(in range: ClosedRange<Step>, _ body: (LedgerEntry) throws -> Void) throws {
    var faults: [LedgerProblem] = []
    let (contents, newest, boundary) = try journal.read { database in
      (
        try Self.contents(database, &faults), try Self.newestStep(database),
        try Int64.fetchOne(
          database, sql: "SELECT next_sample FROM steps WHERE step < ? ORDER BY step DESC LIMIT 1",
          arguments: [Int64(clamping: range.lowerBound)])
      )
    }
    if let fault = faults.first { throw failure("\(fault)") }
    guard let newest else { return }
    var skips = contents.skips.drop { $0.samples.lowerBound < UInt64(clamping: boundary ?? 0) }
    var expelled = contents.expulsions.drop { $0.step < range.lowerBound }
    var replicas: [Generation: [LedgerEntry.Replica]] = [:]
    var next = range.lowerBound
    while next <= min(range.upperBound, newest) {
      let steps = try readSteps(next...min(range.upperBound, newest))
      guard let last = steps.last else { break }
      for step in steps {
        while let expulsion = expelled.first, expulsion.step <= step.record.step {
          try body(.expelled(expulsion))
          expelled = expelled.dropFirst()
        }
        while let skip = skips.first, skip.samples.lowerBound < step.record.samples.lowerBound {
          try body(.skipped(skip, before: step.record.step))
          skips = skips.dropFirst()
        }
        let generation = step.record.generation
        if replicas[generation] == nil { replicas[generation] = LedgerEntry.replicas(contents, generation) }
        try body(.step(step, computedBy: replicas[generation] ?? []))
      }
      next = last.record.step + 1
    }
    // By a step that is not committed yet; and skipped after the newest step: the next one begins behind them.
    if range.upperBound >= newest { for expulsion in expelled { try body(.expelled(expulsion)) } }
    if range.upperBound >= newest { for skip in skips { try body(.skipped(skip, before: newest + 1)) } }
  }

  /// Steps that are read at once.
  private static let batchSteps = 4096

  /// The first of the steps in a range.
  private func readSteps(_ range: ClosedRange<Step>) throws(CoordinatorError) -> [JournaledStep] {
    var fault: String?
    let steps = try journal.read { database in
      var steps: [JournaledStep] = []
      let rows = try Row.fetchCursor(
        database, sql: "SELECT * FROM steps WHERE step BETWEEN ? AND ? ORDER BY step LIMIT ?",
        arguments: [Int64(clamping: range.lowerBound), Int64(clamping: range.upperBound), Self.batchSteps])
      while let row = try rows.next() {
        do throws(JournalRowFault) { steps.append(try JournalRows.step(row)) } catch {
          fault = "steps, row \(JournalRows.value(row, "step")): \(error.reason)"
          break
        }
      }
      return steps
    }
    if let fault { throw failure(fault) }
    return steps
  }

  private func failure(_ fault: String) -> CoordinatorError {
    .journal(path: journal.path, reason: fault + " (`ledger verify` lists all faults)")
  }

  /// The newest committed step; nil when there is none.
  public func newestStep() throws(CoordinatorError) -> Step? { try journal.read(Self.newestStep) }

  private static func newestStep(_ database: Database) throws -> Step? {
    try Int64.fetchOne(database, sql: "SELECT max(step) FROM steps").flatMap { UInt64(exactly: $0) }
  }

  /// Of the data that the run was trained on.
  public func dataFingerprint() throws(CoordinatorError) -> String? { try journal.fact(.dataFingerprint) }

  private static func difference(_ record: StepRecord, _ counts: Counts) -> LedgerProblem? {
    let found = StepDenominators(targetTokens: record.targetTokens, images: record.images)
    let expected: StepDenominators
    do { expected = try counts(record.samples) } catch {
      return .counts(record.step, reason: "its samples cannot be read from the data index: \(error)")
    }
    guard found != expected else { return nil }
    return .counts(
      record.step,
      reason: "\(found.targetTokens) target tokens and \(found.images) images; the data index says "
        + "\(expected.targetTokens) and \(expected.images)")
  }

  // MARK: All but the steps

  private static func contents(_ database: Database, _ faults: inout [LedgerProblem]) throws -> LedgerContents {
    var facts: [String: String] = [:]
    for row in try Row.fetchAll(database, sql: "SELECT * FROM facts") {
      if let name = try? JournalRows.text(row, "name") { facts[name] = try? JournalRows.text(row, "value") }
    }
    func count(_ fact: JournalFact) -> UInt64? { facts[fact.rawValue].flatMap { UInt64($0) } }
    for fact in [JournalFact.samplesPerStep, .tokensPerStep, .totalSteps] where count(fact) == nil {
      faults.append(.missingFact(fact.rawValue))
    }
    var contents = LedgerContents(
      samplesPerStep: count(.samplesPerStep) ?? 0, tokensPerStep: count(.tokensPerStep) ?? 0,
      leaves: count(.leaves).flatMap { Int(exactly: $0) })
    if let text = facts[JournalFact.outcome.rawValue],
      let ending = try? JSONDecoder().decode(StatusReport.Ending.self, from: Data(text.utf8)), ending.kind == "done"
    {
      contents.stepsWhenDone = count(.totalSteps)
    }
    func read<Value>(
      _ table: String, _ key: String, by order: String? = nil, _ decode: (Row) throws(JournalRowFault) -> Value
    ) throws -> [Value] {
      var values: [Value] = []
      let rows = try Row.fetchCursor(database, sql: "SELECT * FROM \(table) ORDER BY \(order ?? key), \(key)")
      while let row = try rows.next() {
        do throws(JournalRowFault) { values.append(try decode(row)) } catch {
          faults.append(.unreadable(table: table, row: "\(JournalRows.value(row, key))", reason: error.reason))
        }
      }
      return values
    }
    contents.generations = Set(try read("generations", "generation", JournalRows.generation))
    let plans = try read("plans", "generation") { row throws(JournalRowFault) in
      (try JournalRows.generation(row), try JournalRows.plan(row))
    }
    contents.plans = Dictionary(plans, uniquingKeysWith: { $1 })
    contents.workers = try read("workers", "worker", JournalRows.worker)
    contents.skips = try read("skipped", "first_sample", JournalRows.skip)
    // A journal that was written before there was such a table has expelled nobody.
    if try database.tableExists("expelled") {
      contents.expulsions = try read("expelled", "worker", by: "step", JournalRows.expulsion)
    }
    contents.checkpoints = try read("checkpoints", "step", JournalRows.checkpoint)
    contents.validations = try read("validations", "step", JournalRows.validation)
    return contents
  }
}
