import ClusterModel
import Wire

/// The coordinator's decisions: takes events, returns directives; no socket, disk, clock or randomness.
///
/// ```
/// assembling -> preparing -> ( evaluating | stepping )* -> settling -> finished
///                                 any of them -> stopping -> finished
/// ```
/// A step is `runStep` -> `reduced` from all -> `update` -> `updated` from all -> journal. Only the journal's
/// answer moves the run to the next state.
public struct CoordinatorMachine: Sendable {
  public enum Phase: Hashable, Sendable {
    /// Waiting for the expected number of workers.
    case assembling
    /// The plan is announced; those who are ready.
    case preparing(ready: Set<WorkerID>)
    case evaluating(EvaluationBarrier)
    case stepping(StepBarrier)
    /// Nothing left to compute; the last checkpoint is on its way.
    case settling
    /// The run is over, but a manifest is being written: whether it succeeds belongs into the outcome.
    case stopping(Outcome)
    case finished(Outcome)
  }

  /// Everything that events change; the settings never do.
  public struct State: Hashable, Sendable {
    public internal(set) var phase = Phase.assembling
    public internal(set) var generation: Generation
    public internal(set) var membership: Membership
    public internal(set) var plan: Plan?
    /// Committed steps: the state that all workers hold, or will when the current step is done.
    public internal(set) var step: Step
    public internal(set) var checkpoints: CheckpointCommit
    public internal(set) var evaluated: Set<Step>
    /// Why the run drains, once it does.
    public internal(set) var drainReason: String?
    var isStopRequested = false
    /// The plan, by worker.
    var places: [WorkerID: Place] = [:]
    /// Ticks seen.
    var now: UInt64 = 0
  }

  public let settings: CoordinatorMachineSettings
  public let fromStep: Step
  public internal(set) var state: State

  public init(settings: CoordinatorMachineSettings, start: CoordinatorStart) {
    self.settings = settings
    fromStep = start.fromStep
    state = State(
      generation: start.generation,
      membership: Membership(nextWorker: start.nextWorker, device: start.deviceFingerprint), step: start.fromStep,
      checkpoints: CheckpointCommit(newest: start.lastCheckpoint, saved: start.saved), evaluated: start.evaluated)
  }

  /// What to do before the first event: a run that is complete already needs no workers.
  public mutating func start() -> [CoordinatorDirective] {
    guard settings.expectedWorkers > 0 else {
      return finish(.configuration, "\(PlanError.noWorkers)")
    }
    if state.step >= settings.totalSteps, !isEvaluationDue {
      return finish(.done, "all \(settings.totalSteps) steps are done")
    }
    let workers = settings.expectedWorkers
    return [
      .log(
        .info,
        "\(state.generation): waiting for \(workers) \(workers == 1 ? "worker" : "workers"), starting from step \(state.step)"
      )
    ]
  }

  public mutating func handle(_ event: CoordinatorEvent) -> [CoordinatorDirective] {
    if case .finished = state.phase { return [] }
    switch event {
    case .message(let envelope, let connection): return receive(envelope, from: connection)
    case .tick: return tick()
    case .connectionRefused(let connection):
      guard let worker = state.membership.worker(at: connection) else { return [] }
      return lost(worker, "closed its connection")
    case .stopRequested(let reason): return stopRequested(reason)
    case .stepJournaled(let step): return stepJournaled(step)
    case .stepNotReproduced(_, let reason): return stop(.notReproducible, reason)
    case .journalFailed(let reason): return stop(.storage, reason)
    case .checkpointCommitted(let step): return checkpointCommitted(step)
    case .checkpointCommitFailed(let step, let reason): return checkpointCommitFailed(step, reason)
    }
  }

  /// The workers with a place, in rank order.
  var placed: [WorkerID] { state.plan?.places.flatMap { $0 } ?? [] }

  func envelope(_ message: ControlMessage) -> Envelope {
    Envelope(run: settings.run, generation: state.generation, sender: .coordinator, message: message)
  }
  func send(_ message: ControlMessage, to worker: WorkerID) -> [CoordinatorDirective] {
    state.membership[worker].map { [.send(envelope(message), to: $0.connection)] } ?? []
  }
  func sendToPlaced(_ message: ControlMessage) -> [CoordinatorDirective] {
    placed.flatMap { send(message, to: $0) }
  }
}
