import ClusterModel
import ControlPlane
import Foundation
import Keys
import Logging
import Transport

/// The coordinator's shell: one thread that moves messages, journal records and ticks between the world and
/// ``CoordinatorMachine``, which makes every decision.
///
/// Confined to the thread that makes it. While it lives it holds the run directory's lock.
public final class CoordinatorProcess {
  /// The bound address, with the port that was taken.
  public let endpoint: String
  private let directory: RunDirectory
  private let lock: RunDirectoryLock
  private let loop: CoordinatorLoop
  private let stopCount: () -> Int

  /// Takes the run directory and the address, and finds the state to begin from.
  ///
  /// - Parameter stopCount: how often a stop was asked for so far; polled ten times a second. The first drains the
  ///   run (finish the step, checkpoint, stop), a second stops it at once.
  /// - Throws: ``CoordinatorError``, or `TransportError` when the address cannot be had.
  public init(_ settings: CoordinatorSettings, log: Logger, stopCount: @escaping () -> Int) throws {
    directory = RunDirectory(settings.runDirectory)
    self.stopCount = stopCount
    // The lock comes first: nothing of a live run is looked at, let alone changed.
    lock = try directory.acquire()
    let list = settings.authorizedKeys ?? directory.authorizedKeys
    let admission = try settings.keys.map { pair throws(KeyFileError) in
      try KeyAdmission(pair, list: list, settings: settings, log: log)
    }
    let server = try ControlServer(
      listen: settings.listen, keys: admission?.serverKeys, allowPlaintext: settings.allowPlaintext)
    endpoint = server.endpoint
    let trace = try settings.traceFile.map { path throws(CoordinatorError) in try TraceFile(creating: path) }
    let opening = try RunOpening(settings, in: directory, log: log, now: Date().timeIntervalSince1970)
    loop = CoordinatorLoop(
      settings: settings, directory: directory, opening: opening, server: server, admission: admission,
      trace: trace, log: log)
    try directory.announce(
      CoordinatorAddress(
        address: endpoint, processID: ProcessInfo.processInfo.processIdentifier, host: RunOpening.hostName,
        run: opening.run.text, generation: opening.start.generation.number,
        publicKey: settings.keys?.publicKey.text))
    log.info("coordinator of run \(opening.run.text.prefix(8)), \(opening.start.generation), on \(endpoint)")
    if let key = settings.keys?.publicKey { log.info("encrypted; the coordinator's public key is \(key)") }
  }
  // The lock goes after this: a successor's file is never withdrawn.
  deinit { directory.withdraw() }

  /// Runs until the run is over; blocks.
  /// - Parameters:
  ///   - progress: called after each committed step and validation; without the list of workers after a step.
  ///   - barrier: called before each commit with the seconds from the step's first order to its last report.
  public func run(
    progress: @escaping (StatusReport) -> Void = { _ in }, barrier: @escaping (Step, Double) -> Void = { _, _ in }
  ) throws -> CoordinatorOutcome {
    loop.progress = progress
    loop.barrier = barrier
    let outcome = try loop.run(stopCount: stopCount)
    directory.withdraw()
    return CoordinatorOutcome(outcome)
  }
}

/// How a coordinator's run ended, as the command line tells it.
public enum CoordinatorOutcome: Hashable, Sendable {
  /// All steps are done.
  case done(step: Step)
  /// Stopped on request at a state that is saved.
  case stopped(step: Step, reason: String)
  /// A worker was lost, or the stop could not wait: resume from the checkpoint, nil meaning from the beginning.
  case requeue(reason: String, lastCheckpoint: Step?)
  /// `status` is the exit code of the failure's class.
  case failed(status: Int32, reason: String)

  init(_ outcome: Outcome) {
    self =
      switch outcome.kind {
      case .done: .done(step: outcome.step)
      case .drained: .stopped(step: outcome.step, reason: outcome.reason)
      case .requeue: .requeue(reason: outcome.reason, lastCheckpoint: outcome.lastCheckpoint)
      case .superseded, .configuration, .data, .peer, .numbers, .notReproducible, .storage, .software:
        .failed(status: outcome.exitCode, reason: "\(outcome)")
      }
  }
}
