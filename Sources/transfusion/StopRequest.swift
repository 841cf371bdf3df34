import Foundation
import Synchronization
import UnixSignals

/// Set by SIGINT or SIGTERM: finish the step, checkpoint, exit. A second signal ends the process at once.
final class StopRequest: Sendable {
  private let count = Atomic<Int>(0)
  private let announcement: String

  /// - Parameter announcement: what the user reads after the first signal.
  init(
    announcement: String =
      "Stopping after this step: a checkpoint is written first. Signal again to stop at once and lose what came after the last one."
  ) {
    self.announcement = announcement
  }

  var isRequested: Bool { count.load(ordering: .relaxed) > 0 }

  /// Runs `body` while watching for signals.
  func watching<Value: Sendable>(_ body: @Sendable () async throws -> Value) async throws -> Value {
    let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
    let watcher = Task {
      for await signal in signals {
        if count.add(1, ordering: .relaxed).newValue > 1 { exit(128 + (signal == .sigint ? 2 : 15)) }
        StandardError.write(announcement)
      }
    }
    defer { watcher.cancel() }
    return try await body()
  }
}
