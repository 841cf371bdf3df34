import Configuration
import Coordinator
import Foundation
import Logging

extension RunLauncher {
  /// Runs the coordinator (and local workers) to its end.
  ///
  /// - Throws: the coordinator's errors, or a ``CommandFailure`` with the exit code of how the run ended.
  func run(resume: CoordinatorResume) async throws {
    let settings = try settings(resume: resume)
    let stop = StopRequest()
    let log = log
    let localWorkers = localWorkers
    let resources = resources
    let outcome = try await stop.watching {
      try await onThread("coordinator") {
        let coordinator = try CoordinatorProcess(settings, log: log) { stop.isRequested }
        var workers: LocalWorkers?
        if localWorkers > 0 {
          let started = try LocalWorkers(runDirectory: settings.runDirectory)
          try started.start(count: localWorkers, address: coordinator.endpoint, resources: resources)
          workers = started
        } else {
          log.notice("listening on \(coordinator.endpoint); waiting for \(settings.expectedWorkers) workers: `transfusion worker join \(coordinator.endpoint)`")
        }
        // Local workers end by the coordinator's word; those that do not are not left behind.
        defer { workers?.finish(seconds: 20) }
        let progress = localWorkers > 0 && isatty(STDERR_FILENO) == 1 ? ProgressLine("training") : nil
        defer { progress?.finish() }
        return try coordinator.run { report in progress?.update(StatusText.line(report)) }
      }
    }
    switch outcome {
    case .done(let step): log.notice("done: \(step) steps")
    case .stopped(let step, let reason):
      log.notice("stopped at step \(step) (\(reason)); go on with `transfusion resume \(runDirectory)`")
    case .requeue(let reason, let lastCheckpoint):
      let from = lastCheckpoint.map { "from the checkpoint of step \($0)" } ?? "from the start: there is no checkpoint yet"
      let logs = localWorkers > 0 ? " The workers' logs are in \(runDirectory)/logs." : ""
      throw CommandFailure(.requeue, "\(reason); go on \(from) with `transfusion resume \(runDirectory)`.\(logs)")
    case .failed(let status, let reason):
      throw CommandFailure(ExitStatus(rawValue: status) ?? .software, reason)
    }
  }

  /// The configuration with paths that mean the same in every process.
  static func absolute(_ configuration: RunConfiguration) -> RunConfiguration {
    var configuration = configuration
    configuration.data.directory = URL(filePath: configuration.data.directory).standardizedFileURL.path
    return configuration
  }
}
