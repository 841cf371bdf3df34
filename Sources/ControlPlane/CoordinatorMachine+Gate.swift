import ClusterModel
import Wire

extension CoordinatorMachine {
  /// Who sent a message, once the gate has let it through.
  enum Admitted: Hashable {
    case member(WorkerID)
    /// A member that has not heard of the generation yet.
    case late(WorkerID)
    /// - Parameter obeyed: the newest generation that it has heard of in this run; nil when it names no run.
    case candidate(Hello, obeyed: Generation?)
    case observer
  }

  /// The one gate: run, generation and sender of every message. What it refuses changes nothing.
  func gate(_ envelope: Envelope, from connection: Connection) -> Result<Admitted, GateRefusal> {
    let namesNoRun = envelope.run.text.isEmpty
    guard envelope.run == settings.run || namesNoRun else { return .failure(.foreignRun) }
    switch (envelope.sender, envelope.message) {
    case (.coordinator, _): return .failure(.impostor)
    case (.observer, .statusRequest): return .success(.observer)
    case (.candidate, .hello(let hello)): return candidate(hello, namesNoRun ? nil : envelope.generation)
    case (.worker(let worker), .hello(let hello)):
      // A worker that reconnects knows its ID, but it is a candidate until it is welcomed.
      guard hello.worker == nil || hello.worker == worker else { return .failure(.wrongSender) }
      return candidate(hello, namesNoRun ? nil : envelope.generation)
    case (.observer, _), (.candidate, _): return .failure(.notAllowed)
    case (.worker(let worker), _):
      guard !namesNoRun else { return .failure(.foreignRun) }
      guard state.membership.isMember(envelope.sender, at: connection) else { return .failure(.wrongSender) }
      guard envelope.generation == state.generation else {
        // Whoever has missed that a generation began lives all the same, and is told again.
        if case .heartbeat = envelope.message, envelope.generation < state.generation { return .success(.late(worker)) }
        return .failure(.stale(envelope.generation))
      }
      if envelope.message.answersOrder, envelope.order != state.order.number { return .failure(.answerToAnotherOrder) }
      return .success(.member(worker))
    }
  }

  /// No run has so many generations. A coordinator goes beyond what its workers have heard of: never to where messages
  /// carry no higher number (``WireLimits/count``), whatever they claim.
  static let mostGeneration = Generation(1 << 59)

  private func candidate(_ hello: Hello, _ obeyed: Generation?) -> Result<Admitted, GateRefusal> {
    if let obeyed, obeyed >= Self.mostGeneration, obeyed > state.generation { return .failure(.stale(obeyed)) }
    return .success(.candidate(hello, obeyed: obeyed))
  }

  enum GateRefusal: Error, Hashable, CustomStringConvertible {
    case foreignRun
    case impostor
    case wrongSender
    case stale(Generation)
    case answerToAnotherOrder
    case notAllowed
    var description: String {
      switch self {
      case .foreignRun: "it is of another run"
      case .impostor: "it claims to be from the coordinator"
      case .wrongSender: "its sender is not the worker of that connection"
      case .stale(let generation): "it is of \(generation)"
      case .answerToAnotherOrder: "it answers another order than the newest"
      case .notAllowed: "its sender may not say that"
      }
    }
  }

  mutating func receive(_ envelope: Envelope, from connection: Connection) -> [CoordinatorDirective] {
    switch gate(envelope, from: connection) {
    case .failure(let refusal):
      let log = CoordinatorDirective.log(.debug, "refused a message of \(connection): \(refusal)")
      // A worker over a connection that is not its own: this coordinator or the connection is new.
      guard refusal == .wrongSender, case .worker = envelope.sender else { return [log] }
      return [log, .send(self.envelope(.introduce), to: [connection])]
    case .success(.observer): return [.answerStatus(connection)]
    case .success(.candidate(let hello, let obeyed)): return receive(hello, from: connection, obeyed: obeyed)
    case .success(.late(let worker)):
      state.membership.alive(worker, now: state.now)
      return resendOrder(to: worker, has: 0)
    case .success(.member(let worker)): return receive(envelope.message, from: worker)
    }
  }

  private mutating func receive(_ hello: Hello, from connection: Connection, obeyed: Generation?)
    -> [CoordinatorDirective]
  {
    let trusted = obeyed != nil
    if let obeyed, let worker = hello.worker, !isEnding, isForeign(obeyed, of: hello, connection) {
      return surpass(obeyed, of: worker) + receive(hello, from: connection, obeyed: Generation(0))
    }
    switch state.membership.hello(hello, from: connection, trusted: trusted, isEnding: isEnding, now: state.now) {
    case .refused(let reason):
      return [
        .send(self.envelope(.refused(reason: reason)), to: [connection]),
        .log(.warning, "refused a worker on \(hello.host): \(reason)"),
      ]
    case .displaced(let reason):
      return [
        .send(self.envelope(.stop(Stop(disposition: .requeue, reason: reason))), to: [connection]),
        .log(.warning, "sent away a worker on \(hello.host): \(reason)"),
      ]
    // What it has missed meanwhile comes again as its heartbeats tell.
    case .again(let worker), .moved(let worker): return welcome(worker)
    case .phantom(let worker):
      return lost(worker, "goes by the number \(hello.worker?.number ?? 0)")
        + receive(hello, from: connection, obeyed: obeyed)
    case .admitted(let worker):
      let record = WorkerRecord(
        worker: worker, generation: state.generation, host: hello.host, processID: hello.processID,
        deviceFingerprint: hello.deviceFingerprint, gigaflopsPerSecond: hello.gigaflopsPerSecond)
      let isBack = trusted && hello.worker == worker
      let count =
        state.hasFormed ? "\(state.membership.count)" : "\(state.membership.count) of \(settings.expectedWorkers)"
      let joined = "\(worker) \(isBack ? "is back" : "joined") from \(hello.host): \(count)"
      return [.persistWorker(record)] + welcome(worker) + [.log(.info, joined)] + admitted(worker, isBack: isBack)
    }
  }

  /// Nobody new is let in, and no generation begins but to save the last state.
  private var isEnding: Bool {
    switch state.phase {
    case .settling, .stopping, .finished: true
    case .assembling, .regrouping, .preparing, .evaluating, .stepping: false
    }
  }

  /// Whether a worker has obeyed another coordinator in this generation or in a later one: a disk that lost power has not
  /// kept the records that it had said to keep.
  private func isForeign(_ obeyed: Generation, of hello: Hello, _ connection: Connection) -> Bool {
    guard obeyed >= state.generation else { return false }
    return obeyed > state.generation || !state.membership.isAcquainted(hello, connection)
  }

  /// Begins a generation that this worker has not heard of: what was said under a number that is given twice must not be
  /// taken for what is said now. If a coordinator gave it that lives, the journal refuses.
  private mutating func surpass(_ obeyed: Generation, of worker: WorkerID) -> [CoordinatorDirective] {
    let reason = "\(worker) has obeyed \(obeyed) of another coordinator"
    guard case .assembling = state.phase else { return regroup(reason, above: obeyed) }
    // Who is a member already speaks under the number before, unless it is told.
    return raiseGeneration(above: obeyed, reason) + state.membership.sorted.flatMap { welcome($0.worker) }
  }

  /// A member beats.
  private mutating func receive(_ heartbeat: Heartbeat, from worker: WorkerID) -> [CoordinatorDirective] {
    // An order that was never given: its hello was from before it obeyed this generation of another coordinator.
    guard heartbeat.order <= state.order.number || isEnding else { return surpass(state.generation, of: worker) }
    return resendOrder(to: worker, has: heartbeat.order)
  }

  /// A new member takes part in the generation that is just beginning, or waits for the next boundary.
  private mutating func admitted(_ worker: WorkerID, isBack: Bool) -> [CoordinatorDirective] {
    switch state.phase {
    case .assembling:
      if isBack, state.awaited.contains(worker), state.graceTick == nil {
        // A restarted coordinator, or a network that was away: the others are on their way back, too, or will not come.
        state.graceTick = state.now + settings.limits.graceTicks
      }
      return assembled()
    case .regrouping(var regrouping):
      regrouping.pending.insert(worker)
      state.phase = .regrouping(regrouping)
      state.participants.insert(worker)
      return sendOrder(to: [worker])
    case .preparing, .evaluating, .stepping, .settling, .stopping, .finished: return []
    }
  }

  /// Sends the newest order again to a worker that owes its answer and has not got it.
  /// - Parameter has: the newest order that it says it has.
  private mutating func resendOrder(to worker: WorkerID, has: UInt64) -> [CoordinatorDirective] {
    // The more workers there are, the longer an order is on its way to all of them: what is sent again too early is
    // in the way of what comes next.
    let patience = settings.limits.resendTicks * UInt64(1 + state.membership.count / 512)
    guard has < state.order.number, owes(worker), let member = state.membership[worker],
      state.now - member.lastOrderTick >= patience
    else { return [] }
    return sendOrder(to: [worker])
  }

  private func welcome(_ worker: WorkerID) -> [CoordinatorDirective] {
    send(
      .welcome(
        Welcome(
          worker: worker, configuration: settings.configuration, runDirectory: settings.runDirectory,
          tracing: settings.tracing)),
      to: worker)
  }

  private mutating func receive(_ message: ControlMessage, from worker: WorkerID) -> [CoordinatorDirective] {
    let before = state.membership.signs(of: worker)
    var heartbeat: Heartbeat?
    if case .heartbeat(let content) = message { heartbeat = content }
    state.membership.heard(worker, heartbeat: heartbeat, now: state.now)
    let handled: [CoordinatorDirective]? =
      switch message {
      case .heartbeat(let heartbeat): receive(heartbeat, from: worker)
      case .standing(let standing): receive(standing, from: worker)
      case .ready(let ready): receive(ready, from: worker)
      case .reduced(let report): receive(report, from: worker)
      case .updated(let report): receive(report, from: worker)
      case .evaluated(let report): receive(report, from: worker)
      case .checkpointWritten(let part):
        state.checkpoints.accept(part, from: worker) ? decideCheckpoint() : nil
      case .checkpointFailed(let step, let reason):
        state.checkpoints.acceptFailure(step: step, reason: reason, from: worker) ? decideCheckpoint() : nil
      case .traced(let report): settings.tracing ? [.recordTrace(report, of: worker)] : nil
      case .leaving(let reason): leaving(worker, reason)
      case .failed(let kind, let reason): failed(worker, kind, reason)
      case .copied(let step): copied(step, by: worker)
      case .hello, .welcome, .refused, .introduce, .regroup, .prepare, .runStep, .update, .evaluate, .save,
        .checkpointCommitted, .coordinatorHeartbeat, .stop, .clockQuestion, .statusRequest, .status:
        nil
      }
    if let handled { return handled }
    // Not even a sign of life: a repeated report must not make a hanging worker look busy.
    if let before { state.membership.restore(before, of: worker) }
    return [.log(.debug, "ignored a late or repeated message of \(worker)")]
  }
}

extension ControlMessage {
  /// Whether it is the one answer to an order.
  fileprivate var answersOrder: Bool {
    switch self {
    case .standing, .ready, .reduced, .updated, .evaluated, .failed: true
    default: false
    }
  }
}
