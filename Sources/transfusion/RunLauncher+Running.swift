import Configuration
import Coordinator
import Foundation
import Logging

extension RunLauncher {
  /// Runs the coordinator (and local workers) to its end.
  ///
  /// - Throws: the coordinator's errors, or a ``CommandFailure`` with the exit code of how the run ended.
  func run(resume: CoordinatorResume) async throws {
    let chosen = try keys.choose(listen: listen, log: log)
    var settings = try settings(resume: resume)
    settings.keys = chosen?.pair
    let stop = StopRequest()
    let progress = localWorkers > 0 && isatty(STDERR_FILENO) == 1 ? ProgressLine("training") : nil
    defer { progress?.finish() }
    let log = progress.map(log.above) ?? log
    let localWorkers = localWorkers
    let shares = localWorkers == 0 ? [] : try resources.shares(of: localWorkers)
    let workerKeys = chosen.map { (publicKey: $0.pair.publicKey, file: $0.file) }
    let outcome = try await stop.watching { [settings] in
      try await onThread("coordinator") {
        var workers: LocalWorkers?
        var failure: LocalWorkers.Failure?
        var hasBegun = false
        let coordinator = try CoordinatorProcess(settings, log: log) {
          // A local worker that fails before the run has begun would be waited for in vain, and so would all of them;
          // without some the run goes on.
          // Those that ended with "requeue" were told to: by the coordinator, or by whoever asked all to stop.
          if failure == nil, let workers, !hasBegun || workers.allEnded, let found = workers.failure,
            found.status != ExitStatus.requeue.rawValue
          {
            failure = found
          }
          return stop.count + (failure == nil ? 0 : 1)
        }
        if localWorkers > 0 {
          let started = try LocalWorkers(runDirectory: settings.runDirectory)
          try started.start(
            shares, address: LocalWorkers.reachable(coordinator.endpoint), keys: workerKeys)
          workers = started
        } else {
          log.notice(
            "listening on \(coordinator.endpoint); waiting for \(settings.expectedWorkers) workers: `transfusion worker join \(coordinator.endpoint)`"
          )
        }
        // Local workers end by the coordinator's word; those that do not are not left behind.
        defer { workers?.finish(seconds: 20) }
        let outcome = try coordinator.run { report in
          hasBegun = true
          progress?.update(StatusText.line(report))
        }
        if case .stopped = outcome, !stop.isRequested, let failure {
          throw CommandFailure(
            ExitStatus(rawValue: failure.status) ?? .software,
            "local worker \(failure.number) ended with exit code \(failure.status): \(failure.lastLine) (its log: \(failure.log))"
          )
        }
        return outcome
      }
    }
    switch outcome {
    case .done(let step): log.notice("done: \(step) steps")
    case .stopped(let step, let reason):
      log.notice("stopped at step \(step) (\(reason)); go on with `transfusion resume \(runDirectory)`")
    case .requeue(let reason, let lastCheckpoint):
      let from =
        lastCheckpoint.map { "from the checkpoint of step \($0)" } ?? "from the start: there is no checkpoint yet"
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
