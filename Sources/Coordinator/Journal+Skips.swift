import ClusterModel
import ControlPlane
import GRDB

extension Journal {
  /// Skips samples for good, durably. The same range may be recorded again: the first record stays.
  ///
  /// - Throws: ``CoordinatorError/journal(path:reason:)`` also for a range that does not begin where the first step
  ///   that is not committed would begin: what a committed step consumed cannot be skipped any more.
  public func record(_ skip: SkipRecord) throws(CoordinatorError) {
    let refusal: String? = try fenced(skip.generation) { database in
      let first = Int64(skip.samples.lowerBound)
      let old = try Int64.fetchOne(
        database, sql: "SELECT next_sample FROM skipped WHERE first_sample = ?", arguments: [first])
      if old == Int64(skip.samples.upperBound) { return nil }
      guard !skip.samples.isEmpty else { return "samples \(skip.samples) to be skipped are none" }
      if let next = try Self.nextSample(database), next != skip.samples.lowerBound {
        return "samples \(skip.samples) cannot be skipped: the next step begins at sample \(next)"
      }
      try database.execute(
        sql: "INSERT INTO skipped VALUES (?, ?, ?, ?)",
        arguments: [first, Int64(skip.samples.upperBound), Int64(skip.generation.number), skip.reason])
      return nil
    }
    if let refusal { throw .journal(path: path, reason: refusal) }
  }

  /// Skipped ranges, ascending.
  public func skips() throws(CoordinatorError) -> [SkipRecord] {
    try read { database in
      try Row.fetchAll(database, sql: "SELECT * FROM skipped ORDER BY first_sample").map(JournalRows.skip)
    }
  }

  /// The skipped ranges as the stream of samples is laid out by them.
  ///
  /// - Parameter perStep: samples of one step.
  public func skippedSamples(perStep: UInt64) throws(CoordinatorError) -> SkippedSamples {
    let ranges = try skips().map(\.samples)
    do throws(SkippedSamplesError) { return try SkippedSamples(ranges, perStep: perStep) } catch {
      throw .journal(path: path, reason: "\(error)")
    }
  }

  /// Where the step after the newest committed one begins; nil when the journal begins in the middle of the run
  /// (its beginning was lost) and does not know yet.
  static func nextSample(_ database: Database) throws -> UInt64? {
    guard
      let end = try Int64.fetchOne(database, sql: "SELECT next_sample FROM steps ORDER BY step DESC LIMIT 1")
    else { return nil }
    return try skipping(from: UInt64(end), database)
  }

  /// The first position at or after this one that is not skipped.
  private static func skipping(from position: UInt64, _ database: Database) throws -> UInt64 {
    var position = position
    while let next = try Int64.fetchOne(
      database, sql: "SELECT next_sample FROM skipped WHERE first_sample = ?", arguments: [Int64(position)]),
      next > Int64(position)
    {
      position = UInt64(next)
    }
    return position
  }

  /// Why a step that is not in the journal yet consumed other samples than those that are next; nil when they are.
  static func misplacement(of record: StepRecord, _ database: Database) throws -> String? {
    let expected = record.step == 0 ? try skipping(from: 0, database) : try nextSample(database)
    if let expected, expected != record.samples.lowerBound {
      return "step \(record.step) consumed samples \(record.samples), but the next one is \(expected)"
    }
    let count = try String.fetchOne(
      database, sql: "SELECT value FROM facts WHERE name = ?", arguments: [JournalFact.samplesPerStep.rawValue])
    if let count = count.flatMap({ UInt64($0) }), count != UInt64(record.samples.count) {
      return "step \(record.step) consumed samples \(record.samples), but a step has \(count)"
    }
    return nil
  }
}
