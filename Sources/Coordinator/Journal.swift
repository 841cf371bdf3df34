import ClusterModel
import ControlPlane
import Foundation
import GRDB
import Synchronization

/// The run's memory in SQLite: generations, plans, committed steps, checkpoints, validations,
/// skipped samples, expelled workers.
///
/// Write-ahead log with `synchronous = FULL`: what a call has written when it returns survives a crash of the
/// machine. One thread writes; offline readers may open it at any time.
public final class Journal: Sendable {
  static let formatVersion = 2
  let path: String
  let queue: DatabaseQueue
  /// The newest generation that was begun through this object; changes only while the queue is held.
  private let ownGeneration = Mutex(Generation(0))

  /// Opens or makes the journal.
  public convenience init(path: String) throws(CoordinatorError) {
    try self.init(path: path, isReadOnly: false)
  }

  /// Opens an existing journal to look at it.
  public static func reading(path: String) throws(CoordinatorError) -> Journal {
    try Journal(path: path, isReadOnly: true)
  }

  private init(path: String, isReadOnly: Bool) throws(CoordinatorError) {
    self.path = path
    do {
      var configuration = Configuration()
      configuration.label = "journal"
      configuration.readonly = isReadOnly
      configuration.busyMode = .timeout(5)
      if !isReadOnly { configuration.journalMode = .wal }
      queue = try DatabaseQueue(path: path, configuration: configuration)
      if !isReadOnly {
        // GRDB lowers it to NORMAL with the write-ahead log, which may lose the last commits.
        try queue.writeWithoutTransaction { try $0.execute(sql: "PRAGMA synchronous = FULL") }
        try queue.write { try Self.makeTables($0) }
      }
    } catch {
      throw .journal(path: path, reason: Self.reason(error))
    }
    let found: Int
    do {
      found = try queue.read { try Int.fetchOne($0, sql: "PRAGMA user_version") ?? 0 }
    } catch {
      throw .journal(path: path, reason: Self.reason(error))
    }
    guard found <= Self.formatVersion else {
      throw .journalVersion(path: path, found: found, known: Self.formatVersion)
    }
  }

  /// `synchronous` as the database has it: 2 is FULL.
  package func synchronousMode() throws(CoordinatorError) -> Int {
    try read { try Int.fetchOne($0, sql: "PRAGMA synchronous") ?? -1 }
  }

  private static func makeTables(_ database: Database) throws {
    try database.execute(
      sql: """
        CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS generations (
          generation INTEGER PRIMARY KEY, host TEXT NOT NULL, process_id INTEGER NOT NULL, started_at REAL NOT NULL,
          reason TEXT NOT NULL DEFAULT 'the coordinator started');
        CREATE TABLE IF NOT EXISTS plans (
          generation INTEGER PRIMARY KEY REFERENCES generations, from_step INTEGER NOT NULL, plan TEXT NOT NULL,
          reasons TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS workers (
          worker INTEGER NOT NULL, generation INTEGER NOT NULL REFERENCES generations, host TEXT NOT NULL,
          process_id INTEGER NOT NULL, device TEXT NOT NULL, gigaflops REAL NOT NULL,
          PRIMARY KEY (worker, generation));
        CREATE TABLE IF NOT EXISTS steps (
          step INTEGER PRIMARY KEY, generation INTEGER NOT NULL REFERENCES generations,
          first_sample INTEGER NOT NULL, next_sample INTEGER NOT NULL, tokens INTEGER NOT NULL,
          target_tokens INTEGER NOT NULL, images INTEGER NOT NULL, language_model_loss REAL, diffusion_loss REAL,
          gradient_sum_of_squares REAL NOT NULL, learning_rate REAL NOT NULL, seconds REAL NOT NULL,
          committed_at REAL NOT NULL);
        CREATE TABLE IF NOT EXISTS checkpoints (
          step INTEGER PRIMARY KEY, generation INTEGER NOT NULL REFERENCES generations, next_sample INTEGER NOT NULL,
          digest TEXT NOT NULL, size_bytes INTEGER NOT NULL, committed_at REAL NOT NULL);
        CREATE TABLE IF NOT EXISTS validations (
          step INTEGER PRIMARY KEY, generation INTEGER NOT NULL REFERENCES generations, language_model_loss REAL,
          diffusion_loss REAL, target_tokens INTEGER NOT NULL, images INTEGER NOT NULL, committed_at REAL NOT NULL);
        CREATE TABLE IF NOT EXISTS skipped (
          first_sample INTEGER PRIMARY KEY, next_sample INTEGER NOT NULL, generation INTEGER NOT NULL,
          reason TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS expelled (
          worker INTEGER PRIMARY KEY, host TEXT NOT NULL, step INTEGER NOT NULL, generation INTEGER NOT NULL,
          reason TEXT NOT NULL);
        """)
    switch try Int.fetchOne(database, sql: "PRAGMA user_version") ?? 0 {
    case 0: break
    case 1:
      // Generations were begun by starts of the coordinator alone.
      try database.execute(
        sql: "ALTER TABLE generations ADD COLUMN reason TEXT NOT NULL DEFAULT 'the coordinator started'")
    default: return
    }
    try database.execute(sql: "PRAGMA user_version = \(formatVersion)")
  }

  func read<Value>(_ body: (Database) throws -> Value) throws(CoordinatorError) -> Value {
    do { return try queue.read(body) } catch { throw .journal(path: path, reason: Self.reason(error)) }
  }
  func write<Value>(_ body: (Database) throws -> Value) throws(CoordinatorError) -> Value {
    do { return try queue.write(body) } catch { throw failure(error) }
  }
  private func failure(_ error: any Error) -> CoordinatorError {
    error as? CoordinatorError ?? .journal(path: path, reason: Self.reason(error))
  }

  /// SQLite's own words and code, without the statement.
  static func reason(_ error: any Error) -> String {
    guard let error = error as? DatabaseError else { return "\(error)" }
    let text = error.message ?? "SQLite error"
    let remedy = error.resultCode == .SQLITE_FULL ? "; free some space on the disk and resume" : ""
    return "\(text) (SQLite code \(error.extendedResultCode.rawValue))\(remedy)"
  }
}

/// Facts that are one value each.
public enum JournalFact: String, Sendable, CaseIterable {
  case run, identity, dataFingerprint, device, totalSteps, tokensPerStep, samplesPerStep, leaves, outcome
  /// The state that the record begins with: above 0 in a journal that was made for checkpoints that were there before.
  case firstStep
}

extension Journal {
  public func fact(_ fact: JournalFact) throws(CoordinatorError) -> String? {
    try read { try String.fetchOne($0, sql: "SELECT value FROM facts WHERE name = ?", arguments: [fact.rawValue]) }
  }
  public func set(_ fact: JournalFact, _ value: String?) throws(CoordinatorError) {
    try write { database in
      if let value {
        try database.execute(
          sql: "INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
          arguments: [fact.rawValue, value])
      } else {
        try database.execute(sql: "DELETE FROM facts WHERE name = ?", arguments: [fact.rawValue])
      }
    }
  }

  /// Draws the next generation for this start: durable before anyone hears of it.
  public func beginGeneration(host: String, processID: Int32, at seconds: Double) throws(CoordinatorError)
    -> Generation
  {
    try beginning { database in
      let newest = try JournalRows.newest(database, "generation", of: "generations") ?? 0
      try database.execute(
        sql: "INSERT INTO generations (generation, host, process_id, started_at) VALUES (?, ?, ?, ?)",
        arguments: [newest + 1, host, processID, seconds])
      return Generation(UInt64(newest + 1))
    }
  }

  /// Begins a generation of this coordinator's: durable before anyone hears of it.
  /// - Parameter previous: the one that the coordinator is in; nearly always the one before.
  /// - Throws: ``CoordinatorError/superseded(path:by:)`` when the journal has a newer one than `previous`.
  public func begin(
    _ generation: Generation, after previous: Generation, reason: String, host: String, processID: Int32,
    at seconds: Double
  ) throws(CoordinatorError) {
    _ = try beginning { database in
      try checkNewest(previous, database)
      try database.execute(
        sql: "INSERT INTO generations VALUES (?, ?, ?, ?, ?)",
        arguments: [Int64(generation.number), host, processID, seconds, reason])
      return generation
    }
  }

  /// A transaction that begins a generation; nobody else gets at the queue before it is known to be this object's.
  private func beginning(_ body: (Database) throws -> Generation) throws(CoordinatorError) -> Generation {
    do {
      return try queue.writeWithoutTransaction { database in
        var generation = Generation(0)
        try database.inTransaction(.immediate) {
          generation = try body(database)
          return .commit
        }
        ownGeneration.withLock { $0 = generation }
        return generation
      }
    } catch {
      throw failure(error)
    }
  }

  /// - Throws: ``CoordinatorError/superseded(path:by:)`` when another coordinator has begun a newer generation.
  public func checkNewest(_ generation: Generation) throws(CoordinatorError) {
    let newest = try read { try Self.newestGeneration($0) }
    if newest > generation { throw .superseded(path: path, by: newest) }
  }

  private func checkNewest(_ generation: Generation, _ database: Database) throws {
    let newest = try Self.newestGeneration(database)
    if newest > generation { throw CoordinatorError.superseded(path: path, by: newest) }
  }

  private static func newestGeneration(_ database: Database) throws -> Generation {
    Generation(try JournalRows.newest(database, "generation", of: "generations") ?? 0)
  }

  /// A transaction that changes nothing unless `generation` is the newest: of two coordinators one can write.
  func fenced<Value>(_ generation: Generation, _ body: (Database) throws -> Value) throws(CoordinatorError) -> Value {
    try write { database in
      try checkNewest(generation, database)
      return try body(database)
    }
  }

  /// Runs `body` while no other coordinator can begin: what it changes outside of the journal passes the same fence.
  /// - Throws: ``CoordinatorError/superseded(path:by:)`` when another one has begun a generation after this object's
  ///   newest; `body` is not run then.
  func exclusively<Failure: Error>(_ body: () throws(Failure) -> Void) throws(CoordinatorError)
    -> Result<Void, Failure>
  {
    try write { database in
      try checkNewest(ownGeneration.withLock { $0 }, database)
      do throws(Failure) { return .success(try body()) } catch { return .failure(error) }
    }
  }

  public func record(_ worker: WorkerRecord) throws(CoordinatorError) {
    // Two coordinators must not give one number to two workers.
    try fenced(worker.generation) { database in
      try database.execute(
        sql: "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?)",
        arguments: [
          Int64(worker.worker.number), Int64(worker.generation.number), worker.host, worker.processID,
          worker.deviceFingerprint, worker.gigaflopsPerSecond,
        ])
    }
  }

  public func record(_ plan: PlanRecord) throws(CoordinatorError) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    try fenced(plan.generation) { database in
      try database.execute(
        sql: "INSERT OR REPLACE INTO plans VALUES (?, ?, ?, ?)",
        arguments: [
          Int64(plan.generation.number), Int64(plan.fromStep),
          String(decoding: try encoder.encode(plan.plan), as: UTF8.self),
          String(decoding: try encoder.encode(plan.reasons), as: UTF8.self),
        ])
      try database.execute(
        sql: "INSERT OR REPLACE INTO facts VALUES (?, ?)",
        arguments: [JournalFact.device.rawValue, plan.deviceFingerprint])
    }
  }
}
