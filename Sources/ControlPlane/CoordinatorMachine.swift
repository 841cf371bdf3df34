import ClusterModel
import Wire

/// The coordinator's decisions: takes events, returns directives; no socket, disk, clock or randomness.
///
/// ```
///              +-------------------- a member is lost, joins or leaves ---------------------+
///              v                                                                            |
/// assembling -> regrouping -> preparing -> ( evaluating | stepping )* -> settling -> finished
///                                             any of them -> stopping -> finished
/// ```
/// A step is `runStep` -> `reduced` from all -> journal -> `update` -> `updated` from all. What is in the journal is
/// committed: the state that it makes follows from the state before and the record, on whatever workers there are.
/// A generation begins with `regroup`; its workers say what they hold, and get the newest state that can be put
/// together.
public struct CoordinatorMachine: Sendable {
  public enum Phase: Hashable, Sendable {
    /// Waiting for workers.
    case assembling
    /// A generation begins: who holds what?
    case regrouping(Regrouping)
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

  public struct Regrouping: Hashable, Sendable {
    public internal(set) var pending: Set<WorkerID>
    var standings: [WorkerID: Standing] = [:]
  }

  /// What was last asked of several workers.
  struct Order: Hashable, Sendable {
    var number: UInt64 = 0
    var message = ControlMessage.regroup
  }

  /// Everything that events change; the settings never do.
  public struct State: Hashable, Sendable {
    public internal(set) var phase = Phase.assembling
    public internal(set) var generation: Generation
    public internal(set) var membership: Membership
    public internal(set) var plan: Plan?
    /// The state that the workers hold, or will when the current step is done.
    public internal(set) var step: Step
    /// Steps in the journal. More than `step` while committed steps are computed again.
    public internal(set) var committed: Step
    public internal(set) var checkpoints: CheckpointCommit
    public internal(set) var evaluated: Set<Step>
    /// Why the run drains, once it does.
    public internal(set) var drainReason: String?
    /// Why no plan can be made with the members that are left; nil while one can.
    public internal(set) var waitingReason: String?
    var isStopRequested = false
    /// The plan, by worker.
    var places: [WorkerID: Place] = [:]
    var ranks = Ranks()
    /// Who takes part in the generation: was asked what it holds, and is told the plan.
    var participants: Set<WorkerID> = []
    /// Members that asked to go, and wait until others hold what they hold.
    package internal(set) var leavers: [WorkerID: String] = [:]
    var order = Order()
    var norm: CommittedNorm?
    /// The record that is on its way to disk.
    var journaling: StepRecord?
    /// No state beyond this one begins a generation: the user asked for a rewind.
    var rewindTo: Step?
    /// Whether a plan was ever made in this process.
    var hasFormed = false
    /// Who had a place when the coordinator before this one went.
    var awaited: Set<WorkerID> = []
    /// When to go on without workers that a restarted coordinator has not heard of again.
    var graceTick: UInt64?
    /// Who was there when the plan was last thought over at a boundary.
    var consideredMembers: Set<WorkerID> = []
    /// What the plan says that a step takes.
    var plannedSeconds = 0.0
    /// Positions of the sample stream that no step uses.
    public internal(set) var skips: SkippedSamples
    /// The newest committed steps, as many as a spike is told by.
    var recent: [StepRecord]
    /// A step with bad numbers that is being computed again, or was skipped over.
    var suspicion: Suspicion?
    /// By how many places workers are moved, so that others compute what they did.
    var rotation = 0
    /// Workers that compute wrongly: not planned with, and let go.
    public internal(set) var expelled: Set<WorkerID> = []
    /// Measured in this generation.
    var paces = WorkerPaces()
    /// Of this generation's workers.
    var copies = CopyProgress()
    /// How leaves are divided among the same replicas because of their paces; nil leaves it to the plan.
    var sharedLeaves: [Range<Int>]?
    /// Generations in a row that committed nothing.
    var fruitlessGenerations = 0
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
      committed: max(start.committed, start.fromStep),
      checkpoints: CheckpointCommit(newest: start.lastCheckpoint, saved: start.saved), evaluated: start.evaluated,
      skips: start.skips, recent: start.recent)
    state.norm = start.norm
    state.expelled = start.expelled
    state.awaited = start.lastPlaced
    state.rewindTo = start.isRewind ? start.fromStep : nil
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
    case .superseded(let reason):
      // Whoever has taken over speaks to the workers now.
      return finish(.superseded, reason)
    case .checkpointCommitted(let step): return checkpointCommitted(step)
    case .checkpointCommitFailed(let step, let reason): return checkpointCommitFailed(step, reason)
    }
  }

  /// The number of the order whose answers are awaited.
  package var newestOrder: UInt64 { state.order.number }

  /// The workers with a place, in rank order.
  var placed: [WorkerID] { state.plan?.places.flatMap { $0 } ?? [] }

  mutating func ranks() -> Ranks {
    let workers = placed
    if state.ranks.workers != workers { state.ranks = Ranks(workers) }
    return state.ranks
  }

  func envelope(_ message: ControlMessage, order: UInt64 = 0) -> Envelope {
    Envelope(run: settings.run, generation: state.generation, sender: .coordinator, order: order, message: message)
  }
  func send(_ message: ControlMessage, to worker: WorkerID) -> [CoordinatorDirective] {
    state.membership[worker].map { [.send(envelope(message), to: [$0.connection])] } ?? []
  }
  func sendToPlaced(_ message: ControlMessage) -> [CoordinatorDirective] {
    send(envelope(message), to: placed.compactMap { state.membership[$0]?.connection })
  }
  func send(_ envelope: Envelope, to connections: [Connection]) -> [CoordinatorDirective] {
    connections.isEmpty ? [] : [.send(envelope, to: connections)]
  }

  /// Asks something of several workers; it is asked again of those who have not got it.
  mutating func order(_ message: ControlMessage, of workers: [WorkerID]) -> [CoordinatorDirective] {
    state.order = Order(number: state.order.number + 1, message: message)
    return sendOrder(to: workers)
  }

  mutating func sendOrder(to workers: [WorkerID]) -> [CoordinatorDirective] {
    send(
      envelope(state.order.message, order: state.order.number), to: state.membership.ordered(workers, now: state.now))
  }

  /// Takes the barrier out of the phase while a report is added to it: with thousands of workers it must not be copied
  /// for each of them. The caller puts it back.
  mutating func takeStepBarrier() -> StepBarrier? {
    guard case .stepping(let barrier) = state.phase else { return nil }
    state.phase = .settling
    return barrier
  }
  mutating func takeEvaluationBarrier() -> EvaluationBarrier? {
    guard case .evaluating(let barrier) = state.phase else { return nil }
    state.phase = .settling
    return barrier
  }
  mutating func takeRegrouping() -> Regrouping? {
    guard case .regrouping(let regrouping) = state.phase else { return nil }
    state.phase = .settling
    return regrouping
  }
  mutating func takeReady() -> Set<WorkerID>? {
    guard case .preparing(let ready) = state.phase else { return nil }
    state.phase = .settling
    return ready
  }
}
