import Checkpoints
import ClusterModel
import ControlPlane
import Foundation
import Logging
import Transport
import Wire

/// The event loop; confined to the thread that runs it.
final class CoordinatorLoop {
  let settings: CoordinatorSettings
  let journal: Journal
  let store: CheckpointStore
  let server: ControlServer
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
  /// When the update after the last commit began, and how long it took.
  var updateBegan: ContinuousClock.Instant?
  var updateSeconds: Double?
  /// Nil unless a trace was asked for, and after it could not be written.
  var trace: TraceFile?
  /// When the current step began by the trace's clock.
  var traceStepBegan: UInt64?

  var progress: (StatusReport) -> Void = { _ in }
  /// Told of each step how long it took from its first order to its last report.
  var barrier: (Step, Double) -> Void = { _, _ in }
  /// The socket's names of the members' connections, and of whoever is being answered.
  var peers = PeerTable()
  /// Nil where traffic is plain.
  var admission: KeyAdmission?

  init(
    settings: CoordinatorSettings, directory: RunDirectory, opening: RunOpening, server: ControlServer,
    admission: KeyAdmission? = nil, trace: TraceFile?,
    log: Logger
  ) {
    self.admission = admission
    self.trace = trace
    self.settings = settings
    self.server = server
    self.log = log
    journal = opening.journal
    store = opening.store
    let run = opening.run
    machine = CoordinatorMachine(
      settings: settings.machineSettings(run: run, directory: directory), start: opening.start)
    history = StepHistory(journal: journal, checkpoint: opening.start.lastCheckpoint)
    let configuration = settings.configuration
    let fingerprint = settings.dataFingerprint
    let precision = settings.precision
    let waker = server.waker
    commits = BackgroundCommits(store: store, journal: journal, wake: { waker.wake() }) { request in
      CheckpointContext(
        run: run, generation: request.generation, configuration: configuration,
        data: DataPosition(nextSample: request.nextSample, fingerprint: fingerprint),
        device: request.deviceFingerprint, precision: precision)
    }
  }

  func run(stopCount: () -> Int) throws -> Outcome {
    // Whatever ends the loop, no manifest is left half way: the process stays until it is done.
    defer { commits.finish() }
    defer { closeTrace() }
    obey(machine.start())
    let tick = Duration.seconds(CoordinatorSettings.tickSeconds)
    var nextTick = clock.now + tick
    var timesAsked = 0
    var ticks = 0
    while outcome == nil {
      let wait = max(.zero, nextTick - clock.now)
      try server.poll(timeoutMilliseconds: Int(wait / .milliseconds(1)) + 1) { take($0) }
      for report in commits.drain() { take(report) }
      let asked = stopCount()
      while timesAsked < asked, outcome == nil {
        timesAsked += 1
        feed(.stopRequested(reason: "asked to stop"))
      }
      if clock.now >= nextTick {
        // One tick however late: the machine's time is the time in which it could listen.
        feed(.tick)
        if ticks.isMultiple(of: KeyAdmission.lookTicks) { lookAtKeys() }
        if ticks.isMultiple(of: TraceFile.questionTicks) { askForClocks() }
        if ticks.isMultiple(of: Self.fenceTicks) { checkFence() }
        tracing { trace throws(CoordinatorError) in try trace.flush() }
        ticks += 1
        nextTick = clock.now + tick
      }
    }
    guard let outcome else { preconditionFailure("the loop ends with an outcome") }
    farewell()
    return outcome
  }

  /// Between two looks at whether this is still the run's coordinator: once a second.
  private static let fenceTicks = 10

  /// A coordinator that was stopped or cut off while another took over learns it from the journal.
  private func checkFence() {
    do throws(CoordinatorError) { try journal.checkNewest(machine.state.generation) } catch {
      // A journal that cannot be read for the moment will be when the next step is committed, or then say so.
      if case .superseded = error { feed(Self.event(of: error)) }
    }
  }

  func feed(_ event: CoordinatorEvent) {
    // Nearly always the only one, of thousands.
    if pending.isEmpty, outcome == nil { obey(machine.handle(event)) } else { pending.append(event) }
    while !pending.isEmpty, outcome == nil { obey(machine.handle(pending.removeFirst())) }
  }

  private func take(_ incoming: Incoming) {
    switch incoming.content {
    case .malformed(let error): log.debug("dropped garbage of peer \(incoming.peer): \(error)")
    case .gone:
      let connection = Connection(incoming.peer)
      feed(.connectionRefused(connection))
      peers[connection] = nil
    case .envelope(let envelope):
      let connection = Connection(incoming.peer)
      // A member over its connection, as nearly always, is known.
      if !machine.state.membership.isMember(envelope.sender, at: connection), peers[connection] == nil {
        peers[connection] = incoming.peer
      }
      feed(.message(envelope, from: connection))
      // Whoever is not a member is forgotten: connections come and go, the table must not grow with them.
      if peers.count > machine.state.membership.count, machine.state.membership.worker(at: connection) == nil {
        peers[connection] = nil
      }
      // Who was lost without a word, or came back over another connection, says nothing any more.
      if peers.count > 2 * machine.state.membership.count + Self.forgottenPeers {
        peers.keep(Set(machine.state.membership.sorted.map(\.connection)))
      }
    }
  }
  private static let forgottenPeers = 64

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
      case .failed(let reason):
        // Refused by whoever has taken over, it is no failure of the disk's.
        checkFence()
        feed(.checkpointCommitFailed(result.request.step, reason: reason))
      }
    case .retained(let removed):
      if !removed.isEmpty { log.debug("removed the checkpoints of steps \(removed) as configured") }
    case .retentionFailed(let reason): log.warning("old checkpoints could not be removed: \(reason)")
    }
  }

  /// Repeats the stop until each worker has hung up, so that it is not lost with the sockets.
  private func farewell() {
    guard let stop = machine.farewell else { return }
    var present = peers.find(machine.state.membership.sorted.map(\.connection)).peers
    let deadline = clock.now + .seconds(2)
    while !present.isEmpty, clock.now < deadline {
      var gone: Set<PeerIdentity> = []
      let heard: Void? = try? server.poll(timeoutMilliseconds: 50) { incoming in
        if case .gone = incoming.content { gone.insert(incoming.peer) }
      }
      guard heard != nil else { return }
      for (index, _) in server.send(stop, to: present) { gone.insert(present[index]) }
      present.removeAll { gone.contains($0) }
    }
  }
}

extension Connection {
  fileprivate init(_ peer: PeerIdentity) { self.init(peer.description, publicKey: peer.key?.bytes ?? []) }
}
