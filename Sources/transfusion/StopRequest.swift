import Foundation
import Synchronization
import UnixSignals

/// Set by SIGINT or SIGTERM: finish the step, checkpoint, exit. A second signal stops without a checkpoint, a
/// third ends the process where it is.
final class StopRequest: Sendable {
  private let requests = Atomic<Int>(0)
  private let announcement: String?
  private let isForwarded: Bool

  /// - Parameters:
  ///   - announcement: what the user reads after the first signal.
  ///   - isForwarded: another process of ours passes signals on, SIGTERM for the first and SIGINT for the next. A SIGTERM
  ///     may come from a service manager as well, to both, and counts once.
  init(
    announcement: String? =
      "Stopping after this step: a checkpoint is written first. Signal again to stop at once and lose what came after the last one.",
    isForwarded: Bool = false
  ) {
    self.announcement = announcement
    self.isForwarded = isForwarded
  }

  /// Signals so far.
  var count: Int { requests.load(ordering: .relaxed) }
  var isRequested: Bool { count > 0 }

  /// Runs `body` while watching for signals.
  func watching<Value: Sendable>(_ body: @Sendable () async throws -> Value) async throws -> Value {
    let signals = await UnixSignalsSequence(trapping: .sigterm, .sigint)
    let watcher = Task {
      for await signal in signals {
        if isForwarded, signal == .sigterm, isRequested { continue }
        let number = requests.add(1, ordering: .relaxed).newValue
        if number == 1, let announcement { StandardError.write(announcement) }
        if number > 2 { exit(128 + (signal == .sigint ? 2 : 15)) }
      }
    }
    defer { watcher.cancel() }
    return try await body()
  }
}
