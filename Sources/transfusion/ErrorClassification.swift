import Benchmarks
import Checkpoints
import Compute
import Configuration
import ControlPlane
import Coordinator
import Foundation
import HDF5
import Keys
import ModelVerification
import TrainingData
import TransfusionModel
import Transport
import Worker

/// The class of each error that reaches the command line: its exit code and its sentence.
///
/// - Returns: nil for errors that are not ours (those of the argument parser, which prints its own).
func classified(_ error: any Error) -> CommandFailure? {
  switch error {
  case let failure as CommandFailure: failure
  case let error as ConfigurationError: CommandFailure(.configuration, error.description)
  case let error as ModelConfigurationError: CommandFailure(.configuration, "\(error)")
  case let error as PlanError: CommandFailure(.configuration, error.description)
  case let error as DataMismatch: CommandFailure(.data, error.description)
  case let error as DataError: CommandFailure(error.status, "\(error)")
  case let error as CheckpointError: CommandFailure(error.status, error.description)
  case let error as HDF5Error: CommandFailure(.data, error.description)
  case let error as MicrobatchError: CommandFailure(.data, "\(error)")
  case let error as ReferenceFileError: CommandFailure(.data, "\(error)")
  case let error as TransportError: CommandFailure(error.status, error.description)
  case let error as KeyFileError: CommandFailure(error.status, error.description)
  case let error as DataPlaneError: CommandFailure(.protocol, error.description)
  case let error as CoordinatorError:
    CommandFailure(ExitStatus(rawValue: error.exitCode) ?? .software, error.description)
  case let error as WorkerError: CommandFailure(error.status, error.description)
  case let error as DeviceError: CommandFailure(.configuration, error.description)
  case let error as BenchmarkError: CommandFailure(.software, error.description)
  case let error as CocoaError: CommandFailure(.inputOutput, error.localizedDescription)
  default: nil
  }
}

extension CheckpointError {
  var status: ExitStatus {
    switch self {
    case .damaged, .noCheckpoint, .noneUsable, .notFound: .noUsableCheckpoint
    case .unknownTensor, .invalidPart, .alreadyCommitted: .usage
    case .notPermitted: .unavailable
    case .diskFull, .inputOutput, .library, .source, .interrupted: .inputOutput
    }
  }
}

extension DataError {
  var status: ExitStatus {
    switch self {
    case .outputExists: .usage
    // A path that is not there is wrong input; anything else the system refuses is its own class.
    case .io(_, _, let code): code == ENOENT || code == ENOTDIR ? .data : .inputOutput
    case .impossible, .unusableSource, .malformedArchive, .invalidSample, .invalidLine, .invalidImage, .tokenizer,
      .notPrepared, .damaged, .noIndex, .missingPackage:
      .data
    }
  }
}

extension WorkerError {
  var status: ExitStatus {
    switch self {
    case .unreachable: .unavailable
    case .notLetIn(let error): error.status
    case .refused: .protocol
    case .coordinatorLost: .requeue
    case .stopped, .overtaken, .step: .software
    case .data: .data
    }
  }
}

extension TransportError {
  var status: ExitStatus {
    switch self {
    case .notAuthorised: .notAuthorised
    case .encryptionDiffers, .keyMissing: .configuration
    case .foreignServer: .protocol
    case .invalidAddress, .addressInUse, .addressUnavailable, .permissionDenied, .plaintextRefused, .peerUnreachable,
      .congested, .messageTooLarge, .library:
      .unavailable
    }
  }
}

extension KeyFileError {
  var status: ExitStatus {
    switch self {
    case .missing, .tooOpen, .foreignOwner, .malformed, .noCoordinatorKey: .configuration
    case .exists, .notAKey, .invalidName, .taken, .unknown: .usage
    case .inputOutput: .inputOutput
    }
  }
}
