import ClusterModel
import Digests
import Foundation
import HDF5

/// Why a checkpoint could not be written, found or trusted.
public indirect enum CheckpointError: Error, Equatable, Sendable, CustomStringConvertible {
  /// A file of a checkpoint is not what was committed; the checkpoint before it is the remedy.
  case damaged(step: Step, file: String, problem: CheckpointProblem)
  case noCheckpoint(directory: String)
  /// There are checkpoints, and each was refused for the reason given.
  case noneUsable(directory: String, rejected: [CheckpointError])
  case notFound(step: Step, directory: String)
  /// The step has a manifest already: its files are immutable.
  case alreadyCommitted(step: Step)
  /// Of a ``CheckpointFence``: nothing was committed or removed.
  case notPermitted(reason: String)
  /// What was handed over to be written or committed contradicts itself.
  case invalidPart(step: Step, reason: String)
  case unknownTensor(step: Step, path: String)
  case diskFull(file: String, neededBytes: UInt64)
  case inputOutput(operation: String, file: String, code: Int32)
  case library(HDF5Error)
  /// The memory that was to be written could not be had.
  case source(path: String, reason: String)
  /// Stopped by a fault that a test injected.
  case interrupted(CheckpointStage)

  /// Whether it tells of the machine, not of the checkpoint: another try may succeed.
  public var isInputOutput: Bool {
    switch self {
    case .diskFull, .inputOutput: true
    default: false
    }
  }

  public var description: String {
    switch self {
    case .damaged(let step, CheckpointNames.manifest, .missing):
      "checkpoint of step \(step): \(CheckpointNames.manifest) is missing: it was never committed, or somebody removed it"
    case .damaged(let step, let file, let problem): "checkpoint of step \(step): \(file) \(problem)"
    case .noCheckpoint(let directory):
      "no checkpoint in \(directory); give the run directory or its checkpoints folder, or start a new run"
    case .noneUsable(let directory, let rejected):
      "no usable checkpoint in \(directory): " + rejected.map(\.description).joined(separator: "; ")
    case .notFound(let step, let directory):
      "no checkpoint of step \(step) in \(directory); 'transfusion checkpoint list' shows those there are"
    case .alreadyCommitted(let step):
      "the checkpoint of step \(step) is committed already and is not written again"
    case .notPermitted(let reason): "checkpoints are not this process's to change: \(reason)"
    case .invalidPart(let step, let reason): "the checkpoint of step \(step) cannot be written: \(reason)"
    case .unknownTensor(let step, let path):
      "the checkpoint of step \(step) has no tensor \(path); 'transfusion checkpoint show' lists them"
    case .diskFull(let file, let needed):
      "no space left on the disk to write \(file) (\(needed) bytes); free some, or lower the number of checkpoints kept"
    case .inputOutput(let operation, let file, let code):
      "cannot \(operation) \(file): \(String(cString: strerror(code)))"
    case .library(let error): error.description
    case .source(let path, let reason): "the bytes of \(path) could not be read from memory: \(reason)"
    case .interrupted(let stage): "stopped on purpose at \(stage)"
    }
  }
}

/// What is wrong with one file of a checkpoint; reads as the rest of a sentence that begins with its name.
public enum CheckpointProblem: Error, Hashable, Sendable, CustomStringConvertible {
  case missing
  case notRegularFile
  case unreadable(reason: String)
  case wrongSize(expectedBytes: UInt64, foundBytes: UInt64)
  case wrongHash(expected: String, found: String)
  /// The manifest is not one, or contradicts itself.
  case malformed(reason: String)
  case tensorMissing(path: String)
  case unexpectedTensor(path: String)
  case wrongShape(path: String, expected: [Int], found: [Int])
  case wrongType(path: String, found: String)
  case wrongTensorHash(path: String)
  /// Leads outside the file or hides something.
  case refused(reason: String)
  case wrongDigest(expected: String, found: String)

  public var description: String {
    switch self {
    case .missing: "is missing"
    case .notRegularFile: "is not a regular file"
    case .unreadable(let reason): "cannot be read: \(reason)"
    case .wrongSize(let expected, let found): "has \(found) bytes instead of \(expected)"
    case .wrongHash(let expected, let found):
      "is damaged: its SHA-256 is \(found.prefix(16))... instead of \(expected.prefix(16))..."
    case .malformed(let reason): "is damaged: \(reason)"
    case .tensorMissing(let path): "lacks the tensor \(path)"
    case .unexpectedTensor(let path): "has a tensor \(path) that this configuration does not"
    case .wrongShape(let path, let expected, let found): "holds \(path) with shape \(found) instead of \(expected)"
    case .wrongType(let path, let found): "holds \(path) as \(found) instead of contiguous little-endian float32"
    case .wrongTensorHash(let path): "is damaged: the bytes of \(path) do not have the recorded SHA-256"
    case .refused(let reason): "is refused: \(reason)"
    case .wrongDigest(let expected, let found):
      "records the state digest \(expected.prefix(16))..., but the files have \(found.prefix(16))..."
    }
  }
}

/// Points of writing and removing at which a crash leaves something different behind.
public enum CheckpointStage: String, Sendable, CaseIterable {
  case directoryMade
  case skeletonWritten
  case bytesWritten
  case flushed
  case verified
  case renamed
  case partDurable
  case manifestWritten
  case manifestFlushed
  case strangersRemoved
  case manifestRenamed
  case committed
  case manifestRemoved
}
