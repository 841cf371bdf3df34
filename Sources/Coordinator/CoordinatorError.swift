import Checkpoints
import ClusterModel

/// Why a coordinator cannot start, or a run directory cannot be read.
public enum CoordinatorError: Error, Sendable, CustomStringConvertible {
  /// A live coordinator holds the lock; `holder` is what its coordinator.json says.
  case runDirectoryInUse(path: String, holder: String)
  /// There is no journal.
  case notARun(path: String)
  case inputOutput(operation: String, path: String, reason: String)
  case journal(path: String, reason: String)
  /// The journal was written by a newer program.
  case journalVersion(path: String, found: Int, known: Int)
  /// Another coordinator has begun a newer generation: this one may decide nothing any more.
  case superseded(path: String, by: Generation)
  /// The configuration differs in something that the result depends on.
  case identityChanged(differences: [String])
  case dataChanged(expected: String, found: String)
  case noUsableCheckpoint(CheckpointError)
  /// A state was asked for that the journal has no record of: the steps between would be missing there.
  case outsideRecord(step: Step, record: ClosedRange<Step>)
  /// The checkpoints cannot be looked at: nothing is known against them.
  case unreadableCheckpoints(CheckpointError)
  /// A checkpoint that says something else than the configuration about where the data stream stands.
  case checkpointPosition(step: Step, expected: UInt64, found: UInt64)

  /// The exit code of its class (docs/exit-codes.md).
  public var exitCode: Int32 {
    switch self {
    case .dataChanged: 65
    case .noUsableCheckpoint, .outsideRecord, .checkpointPosition, .notARun: 66
    case .superseded: 69
    case .runDirectoryInUse: 73
    case .inputOutput, .journal, .journalVersion, .unreadableCheckpoints: 74
    case .identityChanged: 78
    }
  }

  public var description: String {
    switch self {
    case .runDirectoryInUse(let path, let holder):
      "the run directory \(path) is in use by a live coordinator (\(holder)): join it, watch it with "
        + "`transfusion status \(path)`, or stop it first"
    case .notARun(let path): "\(path) holds no run: there is no journal.sqlite in it"
    case .inputOutput(let operation, let path, let reason): "cannot \(operation) \(path): \(reason)"
    case .journal(let path, let reason): "the journal \(path) failed: \(reason)"
    case .journalVersion(let path, let found, let known):
      "the journal \(path) has format \(found), this program knows \(known): use the newer program"
    case .superseded(_, let generation):
      "another coordinator has taken over the run with \(generation): this one has stopped and changed nothing since"
    case .identityChanged(let differences):
      "the configuration differs from the run's in what its result depends on: "
        + differences.joined(separator: "; ")
        + " (only steps, parallelism, cluster, checkpoint and logging settings may change; start a new run for the rest)"
    case .dataChanged(let expected, let found):
      "the run was trained on data of fingerprint \(expected), but these have \(found): "
        + "point data.directory at the original data, or start a new run"
    case .noUsableCheckpoint(let error): "\(error)"
    case .outsideRecord(let step, let record):
      "the run's journal goes from step \(record.lowerBound) to \(record.upperBound), and step \(step) is not within: "
        + "resume from one that is, or without naming a step"
    case .unreadableCheckpoints(let error):
      "\(error); no checkpoint was changed: make the files readable again and resume"
    case .checkpointPosition(let step, let expected, let found):
      "the checkpoint of step \(step) stands at sample \(found), but with this batch size and the journal's skipped "
        + "samples it would be \(expected)"
    }
  }
}
