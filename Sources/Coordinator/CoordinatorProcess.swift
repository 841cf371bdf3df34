import Checkpoints
import ClusterModel
import ControlPlane
import Foundation
import Logging
import Wire

/// The coordinator's shell: one thread that moves messages, journal records and ticks between the world and
/// ``CoordinatorMachine``, which makes every decision.
public enum CoordinatorProcess {
  /// Runs until the machine says that the run is over; blocks the calling thread.
  ///
  /// - Parameters:
  ///   - stopRequested: polled ten times a second; true drains the run (finish the step, checkpoint, stop).
  /// - Throws: ``CoordinatorError``, or `TransportError` when the address cannot be had.
  public static func run(
    _ settings: CoordinatorSettings, log: Logger, stopRequested: @escaping @Sendable () -> Bool
  ) throws -> Outcome {
    let opening = try RunOpening(settings, log: log, now: Date().timeIntervalSince1970)
    let socket = try makeSocket(settings)
    return try run(settings, opening: opening, socket: socket, log: log, stopRequested: stopRequested)
  }

  static func run(
    _ settings: CoordinatorSettings, opening: borrowing RunOpening, socket: some ControlSocket, log: Logger,
    stopRequested: @escaping @Sendable () -> Bool
  ) throws -> Outcome {
    let directory = opening.directory
    try directory.announce(
      CoordinatorAddress(
        address: socket.endpoint, processID: ProcessInfo.processInfo.processIdentifier, host: RunOpening.hostName,
        run: opening.run.text, generation: opening.start.generation.number))
    defer { directory.withdraw() }
    log.info("coordinator of run \(opening.run.text.prefix(8)) listens on \(socket.endpoint)")
    settings.onListening(socket.endpoint)
    let loop = CoordinatorLoop(
      settings: settings, run: opening.run, directory: directory, journal: opening.journal, store: opening.store,
      start: opening.start, socket: socket, log: log)
    return try loop.run(stopRequested: stopRequested)
  }
}

/// The event loop; confined to the thread that runs it.
final class CoordinatorLoop<Socket: ControlSocket> {
  let settings: CoordinatorSettings
  let journal: Journal
  let store: CheckpointStore
  let socket: Socket
  let log: Logger
  let commits: BackgroundCommits
  var machine: CoordinatorMachine
  /// Events that directives brought about, handled before anything new is read.
  var pending: [CoordinatorEvent] = []
  var outcome: Outcome?
  var history: StepHistory
  private let clock = ContinuousClock()
  /// When the current step's first `runStep` left.
  var stepBegan: (step: Step, at: ContinuousClock.Instant)?

  init(
    settings: CoordinatorSettings, run: RunID, directory: RunDirectory, journal: Journal, store: CheckpointStore,
    start: CoordinatorStart, socket: Socket, log: Logger
  ) {
    self.settings = settings
    self.journal = journal
    self.store = store
    self.socket = socket
    self.log = log
    machine = CoordinatorMachine(settings: settings.machineSettings(run: run, directory: directory), start: start)
    history = StepHistory(journal: journal, checkpoint: start.lastCheckpoint)
    let configuration = settings.configurationText
    let fingerprint = settings.dataFingerprint
    let precision = settings.precision
    commits = BackgroundCommits(store: store, wake: socket.wake) { request in
      CheckpointContext(
        run: run, generation: request.generation, configuration: configuration,
        data: DataPosition(nextSample: request.nextSample, fingerprint: fingerprint),
        device: request.deviceFingerprint, precision: precision)
    }
  }

  func run(stopRequested: @Sendable () -> Bool) throws -> Outcome {
    // Whatever ends the loop, no manifest is left half way: the process stays until it is done.
    defer { commits.finish() }
    obey(machine.start())
    let tick = Duration.seconds(CoordinatorSettings.tickSeconds)
    var nextTick = clock.now + tick
    var wasAsked = false
    while outcome == nil {
      let wait = max(.zero, nextTick - clock.now)
      let messages = try socket.poll(milliseconds: Int(wait / .milliseconds(1)) + 1)
      for message in messages {
        switch message.content {
        case .envelope(let envelope): feed(.message(envelope, from: message.connection))
        case .garbage(let reason): log.debug("dropped garbage of \(message.connection): \(reason)")
        }
      }
      for report in commits.drain() { take(report) }
      if !wasAsked, stopRequested() {
        wasAsked = true
        feed(.stopRequested(reason: "asked to stop"))
      }
      if clock.now >= nextTick {
        // One tick however late: the machine's time is the time in which it could listen.
        feed(.tick)
        nextTick = clock.now + tick
      }
    }
    guard let outcome else { preconditionFailure("the loop ends with an outcome") }
    farewell()
    return outcome
  }

  private func feed(_ event: CoordinatorEvent) {
    pending.append(event)
    while !pending.isEmpty, outcome == nil { obey(machine.handle(pending.removeFirst())) }
  }

  private func take(_ report: BackgroundCommits.Report) {
    switch report {
    case .commit(let result):
      switch result.outcome {
      case .committed(let digest, let size):
        let now = Date().timeIntervalSince1970
        let checkpoint = JournaledCheckpoint(
          step: result.request.step, nextSample: result.request.nextSample, digest: digest, sizeBytes: size,
          committedAtSeconds: now)
        history.checkpoint = (checkpoint.step, now)
        do throws(CoordinatorError) {
          try journal.record(checkpoint, generation: result.request.generation)
        } catch {
          // The manifest is the commit; the journal's row only tells of it.
          log.error("the checkpoint of step \(checkpoint.step) is complete, but \(error)")
        }
        feed(.checkpointCommitted(result.request.step))
      case .failed(let reason): feed(.checkpointCommitFailed(result.request.step, reason: reason))
      }
    case .retained(let removed):
      if !removed.isEmpty { log.debug("removed the checkpoints of steps \(removed) as configured") }
    case .retentionFailed(let reason): log.warning("old checkpoints could not be removed: \(reason)")
    }
  }

  /// Repeats the stop until each worker has hung up, so that it is not lost with the sockets.
  private func farewell() {
    guard case .finished(let outcome) = machine.state.phase else { return }
    var present = machine.state.membership.sorted
    let disposition: Stop.Disposition =
      switch outcome.kind {
      case .done: .done
      case .drained, .requeue: .requeue
      default: .failed
      }
    let stop = Envelope(
      run: machine.settings.run, generation: machine.state.generation, sender: .coordinator,
      message: .stop(Stop(disposition: disposition, reason: outcome.reason)))
    let deadline = clock.now + .seconds(2)
    while !present.isEmpty, clock.now < deadline {
      guard (try? socket.poll(milliseconds: 50)) != nil else { return }
      present.removeAll { member in
        switch try? socket.send(stop, to: member.connection) {
        case .queued: false
        case .unreachable, .failed, nil: true
        }
      }
    }
  }
}
