import ClusterModel
import ControlPlane
import Foundation
import GRDB

/// Why a row of the journal is not one that a coordinator wrote.
struct JournalRowFault: Error, CustomStringConvertible {
  var reason: String
  var description: String { reason }
}

/// Rows of a journal that may have been tampered with: anything may stand in any column, and none of it traps.
enum JournalRows {
  static func value(_ row: Row, _ column: String) -> DatabaseValue {
    row.hasColumn(column) ? row[column] : .null
  }

  static func number(_ row: Row, _ column: String) throws(JournalRowFault) -> UInt64 {
    let value = value(row, column)
    guard case .int64(let number) = value.storage, number >= 0 else {
      throw JournalRowFault(reason: "\(column) is \(value), not a count")
    }
    return UInt64(number)
  }

  static func generation(_ row: Row) throws(JournalRowFault) -> Generation {
    Generation(try number(row, "generation"))
  }

  static func samples(_ row: Row) throws(JournalRowFault) -> Range<UInt64> {
    let first = try number(row, "first_sample")
    let next = try number(row, "next_sample")
    guard first < next else { throw JournalRowFault(reason: "its samples begin at \(first) and end at \(next)") }
    return first..<next
  }

  static func real(_ row: Row, _ column: String) throws(JournalRowFault) -> Double {
    guard let number = try optionalReal(row, column) else { throw JournalRowFault(reason: "\(column) is missing") }
    return number
  }

  static func optionalReal(_ row: Row, _ column: String) throws(JournalRowFault) -> Double? {
    let value = value(row, column)
    switch value.storage {
    case .null: return nil
    case .double(let number): return number
    case .int64(let number): return Double(number)
    case .string, .blob: throw JournalRowFault(reason: "\(column) is \(value), not a number")
    }
  }

  static func text(_ row: Row, _ column: String) throws(JournalRowFault) -> String {
    guard case .string(let text) = value(row, column).storage else {
      throw JournalRowFault(reason: "\(column) is no text")
    }
    return text
  }

  /// The largest number in a column, which has a successor; nil in an empty table.
  static func newest(_ database: Database, _ column: String, of table: String) throws -> UInt64? {
    guard let row = try Row.fetchOne(database, sql: "SELECT max(\(column)) AS newest FROM \(table)"),
      !value(row, "newest").isNull
    else { return nil }
    let newest = try number(row, "newest")
    guard newest < 1 << 62 else { throw JournalRowFault(reason: "\(column) is \(newest) in \(table)") }
    return newest
  }

  static func evaluation(_ row: Row) throws(JournalRowFault) -> EvaluationRecord {
    EvaluationRecord(
      step: try number(row, "step"), generation: try generation(row),
      languageModelLoss: try optionalReal(row, "language_model_loss"),
      diffusionLoss: try optionalReal(row, "diffusion_loss"), targetTokens: try number(row, "target_tokens"),
      images: try number(row, "images"))
  }

  static func checkpoint(_ row: Row) throws(JournalRowFault) -> JournaledCheckpoint {
    JournaledCheckpoint(
      step: try number(row, "step"), nextSample: try number(row, "next_sample"), digest: try text(row, "digest"),
      sizeBytes: try number(row, "size_bytes"), committedAtSeconds: try real(row, "committed_at"))
  }

  static func step(_ row: Row) throws(JournalRowFault) -> JournaledStep {
    JournaledStep(
      record: StepRecord(
        step: try number(row, "step"), generation: try generation(row), samples: try samples(row),
        tokens: try number(row, "tokens"), targetTokens: try number(row, "target_tokens"),
        images: try number(row, "images"), languageModelLoss: try optionalReal(row, "language_model_loss"),
        diffusionLoss: try optionalReal(row, "diffusion_loss"),
        gradientSumOfSquares: try real(row, "gradient_sum_of_squares"), learningRate: try real(row, "learning_rate")),
      seconds: try real(row, "seconds"), committedAtSeconds: try real(row, "committed_at"))
  }

  static func skip(_ row: Row) throws(JournalRowFault) -> SkipRecord {
    SkipRecord(samples: try samples(row), generation: try generation(row), reason: try text(row, "reason"))
  }

  static func expulsion(_ row: Row) throws(JournalRowFault) -> ExpulsionRecord {
    ExpulsionRecord(
      worker: try workerID(row), host: try text(row, "host"), step: try number(row, "step"),
      generation: try generation(row), reason: try text(row, "reason"))
  }

  private static func workerID(_ row: Row) throws(JournalRowFault) -> WorkerID {
    guard let number = UInt32(exactly: try number(row, "worker")) else {
      throw JournalRowFault(reason: "worker is no worker's number")
    }
    return WorkerID(number)
  }

  static func worker(_ row: Row) throws(JournalRowFault) -> WorkerRecord {
    return WorkerRecord(
      worker: try workerID(row), generation: try generation(row), host: try text(row, "host"),
      processID: Int32(truncatingIfNeeded: try self.number(row, "process_id")),
      deviceFingerprint: try text(row, "device"), gigaflopsPerSecond: try real(row, "gigaflops"))
  }

  static func plan(_ row: Row) throws(JournalRowFault) -> LedgerContents.PlannedGeneration {
    let json = try text(row, "plan")
    do {
      return LedgerContents.PlannedGeneration(
        fromStep: try number(row, "from_step"), plan: try JSONDecoder().decode(Plan.self, from: Data(json.utf8)))
    } catch let fault as JournalRowFault {
      throw fault
    } catch {
      throw JournalRowFault(reason: "the plan cannot be read: \(error)")
    }
  }

  static func checkpoint(_ row: Row) throws(JournalRowFault) -> LedgerContents.Checkpoint {
    LedgerContents.Checkpoint(
      step: try number(row, "step"), generation: try generation(row), nextSample: try number(row, "next_sample"))
  }

  static func validation(_ row: Row) throws(JournalRowFault) -> LedgerContents.Validation {
    LedgerContents.Validation(step: try number(row, "step"), generation: try generation(row))
  }
}
