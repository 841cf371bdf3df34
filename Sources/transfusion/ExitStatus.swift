import ArgumentParser
import Foundation
import Transport

/// Exit codes by class of failure, so that scripts and schedulers can tell what to do next.
/// The numbers follow sysexits.h where it has a fitting one; docs/exit-codes.md explains each.
enum ExitStatus: Int32 {
  case done = 0
  /// A check that the command makes did not pass (`verify model`).
  case checkFailed = 1
  case usage = 64
  /// The data do not fit, are damaged or are not there.
  case data = 65
  case noUsableCheckpoint = 66
  /// An address cannot be bound or reached.
  case unavailable = 69
  /// Something broke that should not.
  case software = 70
  case runDirectoryInUse = 73
  /// Disk full, permission denied and the like.
  case inputOutput = 74
  /// The run can go on: start `transfusion resume` again.
  case requeue = 75
  /// A peer broke the protocol or refused us.
  case `protocol` = 76
  /// The coordinator does not admit this process's key.
  case notAuthorised = 77
  /// The configuration is wrong: do not retry.
  case configuration = 78
}

/// An error with the exit code that its class has.
struct CommandFailure: Error, CustomStringConvertible {
  var status: ExitStatus
  var message: String
  var description: String { message }
  init(_ status: ExitStatus, _ message: String) {
    self.status = status
    self.message = message
  }
}

enum StandardError {
  static func write(_ line: String) { FileHandle.standardError.write(Data((line + "\n").utf8)) }
}

/// Runs blocking work on a thread of its own, so that the executor's threads stay free.
func onThread<Value: Sendable>(_ name: String, _ body: @escaping @Sendable () throws -> Value) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    let thread = Thread {
      ThreadName.set(name)
      continuation.resume(with: Result { try body() })
    }
    thread.stackSize = 8 << 20
    thread.start()
  }
}
