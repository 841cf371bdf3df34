import ClusterModel
import Wire

extension CoordinatorMachine {
  // MARK: Time

  mutating func tick() -> [CoordinatorDirective] {
    state.now += 1
    if case .stopping = state.phase { return [] }
    var directives = beat()
    if case .assembling = state.phase {
      if state.now.isMultiple(of: settings.limits.reminderTicks) {
        let reason = state.waitingReason ?? "\(state.membership.count) of \(settings.expectedWorkers) are here"
        directives.append(.log(.notice, "still waiting for workers: \(reason)"))
      }
      if let grace = state.graceTick, state.now >= grace { directives += assembled() }
    }
    // One that owes an answer hangs before it could write: that is found below, and the run goes on without it.
    if let late = state.checkpoints.late(now: state.now, ticks: settings.limits.stuckTicks), !owes(late.worker) {
      let seconds = Int(Double(settings.limits.stuckTicks) * settings.limits.tickSeconds)
      let text = "\(name(late.worker)) has not written its part for \(seconds) s"
      // The last state must be saved: with a new generation everybody is asked for it again.
      if state.phase == .settling { return directives + regroup("checkpoint of step \(late.step): \(text)") }
      directives += checkpointFailed(late.step, text)
    }
    let limits = settings.limits
    let quiet = state.membership.quiet(
      heardBefore: state.now - min(state.now, limits.deadTicks),
      progressBefore: state.now - min(state.now, limits.stuckTicks))
    for member in quiet {
      guard let fault = failing(member) else { continue }
      let generation = state.generation
      if fault.isHanging {
        // It lives: told to stop, it does so if it ever wakes up.
        directives += send(.stop(Stop(disposition: .requeue, reason: fault.reason)), to: member.worker)
      }
      directives += lost(member.worker, fault.reason)
      // Everybody has been asked something new: nobody else is late with that.
      if state.generation != generation { break }
    }
    return directives
  }

  /// Tells members that the coordinator lives and what it waits for: each in its turn, so that thousands of messages do
  /// not lie before a step's orders; and, unless its part of a checkpoint is awaited, none that has just been given an
  /// order.
  private func beat() -> [CoordinatorDirective] {
    let interval = settings.limits.heartbeatTicks
    var kinds: [(heartbeat: CoordinatorHeartbeat, connections: [Connection])] = []
    for index in state.membership.sorted.indices {
      let number = UInt64(state.membership.sorted[index].worker.number)
      guard (state.now + number).isMultiple(of: interval) else { continue }
      let member = state.membership.sorted[index]
      let isPartAwaited = state.checkpoints.awaits(member.worker)
      guard isPartAwaited || member.lastOrderTick + interval <= state.now else { continue }
      let heartbeat = CoordinatorHeartbeat(
        awaitedOrder: owes(member.worker) ? state.order.number : 0,
        awaitedPart: isPartAwaited ? state.checkpoints.stepInFlight : nil)
      if let kind = kinds.firstIndex(where: { $0.heartbeat == heartbeat }) {
        kinds[kind].connections.append(member.connection)
      } else {
        kinds.append((heartbeat, [member.connection]))
      }
    }
    return kinds.flatMap { send(envelope(.coordinatorHeartbeat($0.heartbeat)), to: $0.connections) }
  }

  /// In the reasons of generations that begin because somebody, or nobody, moves.
  package static let standstill = "it lives but makes no progress"
  package static let endlessWait = "for something that never comes"

  /// Phases in which a worker waits for others: standing still there is not its own fault.
  static let waitingPhases: Set<String> = ["idle", "receive", "reduce", "gather", "barrier"]

  /// Whether a member has not been heard of for longer than is usual.
  func isSuspected(_ member: Membership.Member) -> Bool {
    state.now - member.lastHeardTick > settings.limits.suspectTicks
  }

  private func failing(_ member: Membership.Member) -> (reason: String, isHanging: Bool)? {
    if state.now - member.lastHeardTick > settings.limits.deadTicks {
      return ("silent for more than \(seconds(settings.limits.deadTicks)) s", false)
    }
    guard owes(member.worker) else { return nil }
    let still = state.now - member.lastProgressTick
    let isBusy = !Self.waitingPhases.contains(member.phase)
    if isBusy, still > settings.limits.stuckTicks {
      return ("hangs in \(member.phase): \(Self.standstill)", true)
    }
    // Nobody is busy and nobody moves: they wait for each other.
    if still > 2 * settings.limits.stuckTicks {
      return ("waits in \(member.phase) \(Self.endlessWait)", true)
    }
    return nil
  }

  private func seconds(_ ticks: UInt64) -> String {
    PlanReport.fixed(Double(ticks) * settings.limits.tickSeconds, 1)
  }

  /// Whether the coordinator waits for an answer of this worker to its newest order.
  func owes(_ worker: WorkerID) -> Bool {
    switch state.phase {
    case .regrouping(let regrouping): regrouping.pending.contains(worker)
    case .preparing(let ready): state.participants.contains(worker) && !ready.contains(worker)
    case .evaluating(let barrier): state.places[worker] != nil && barrier.owes(worker)
    case .stepping(let barrier): state.places[worker] != nil && barrier.owes(worker)
    case .settling: state.order.message.isSave && state.checkpoints.awaits(worker)
    case .assembling, .stopping, .finished: false
    }
  }

  // MARK: Members that go

  /// The worker cannot be counted on any more.
  mutating func lost(_ worker: WorkerID, _ reason: String) -> [CoordinatorDirective] {
    let text = "\(name(worker)): \(reason)"
    let takesPart = state.participants.contains(worker)
    remove(worker)
    switch state.phase {
    case .stopping, .finished: return []
    case .settling where state.checkpoints.isCommitting: return []
    case .assembling:
      let log = CoordinatorDirective.log(.warning, "going on without \(text)")
      guard state.hasFormed, state.membership.count == 0 else { return [log] }
      return [log] + wait("all workers are gone")
    case .regrouping(var regrouping):
      regrouping.pending.remove(worker)
      regrouping.standings[worker] = nil
      state.phase = .regrouping(regrouping)
      let log = CoordinatorDirective.log(.warning, "lost \(text)")
      guard state.membership.count > 0 else { return [log] + reassemble("all workers are gone") }
      return [log] + regrouped()
    case .preparing, .evaluating, .stepping, .settling:
      guard takesPart else { return [.log(.warning, "going on without \(text)")] }
      // A spare that has said ready holds nothing that anybody waits for.
      if case .preparing = state.phase {
      } else if state.places[worker] == nil {
        return [.log(.warning, "going on without \(text)")]
      }
      return regroup("lost \(text)")
    }
  }

  /// A worker says that it cannot go on. What would happen again in a new generation must not end in one.
  mutating func failed(_ worker: WorkerID, _ kind: FailureKind, _ reason: String) -> [CoordinatorDirective] {
    let outcome: Outcome.Kind
    switch kind {
    case .peerLost:
      switch state.phase {
      case .preparing, .evaluating, .stepping, .settling:
        return regroup("\(name(worker)) cannot reach a peer: \(reason)")
      case .assembling, .regrouping, .stopping, .finished: return []
      }
    case .data: outcome = .data
    case .configuration: outcome = .configuration
    case .storage: outcome = .storage
    case .software: outcome = .software
    }
    guard areWorkersNeeded, state.participants.contains(worker) else { return lost(worker, "failed: \(reason)") }
    return stop(outcome, "\(name(worker)): \(reason)")
  }

  /// False once what is left to do is the coordinator's own work.
  private var areWorkersNeeded: Bool {
    switch state.phase {
    case .stopping: false
    case .settling: !state.checkpoints.isCommitting
    case .assembling, .regrouping, .preparing, .evaluating, .stepping, .finished: true
    }
  }

  /// A member wants to go. It stays until others hold what it holds; the last one takes the run with it.
  /// - Returns: nil when that changes nothing: asking again is no progress.
  mutating func leaving(_ worker: WorkerID, _ reason: String) -> [CoordinatorDirective]? {
    guard state.leavers[worker] == nil else { return nil }
    switch state.phase {
    case .stopping, .finished, .settling: return nil
    case .assembling: return release(worker, reason)
    case .regrouping, .preparing, .evaluating, .stepping: break
    }
    guard !canGoAtOnce(worker) else { return release(worker, reason) }
    state.leavers[worker] = reason
    if case .failure = decidePlan() { return drain("\(name(worker)) leaves: \(reason)") }
    return [.log(.notice, "\(name(worker)) leaves after this step: \(reason)")]
  }

  /// Nobody waits for what it holds: it came after the generation began, or all have what they need and it is a spare.
  private func canGoAtOnce(_ worker: WorkerID) -> Bool {
    guard state.participants.contains(worker) else { return true }
    guard !settings.planted.contains(.keepSpares) else { return false }
    return switch state.phase {
    case .evaluating, .stepping: state.places[worker] == nil
    case .assembling, .regrouping, .preparing, .settling, .stopping, .finished: false
    }
  }
}

extension ControlMessage {
  fileprivate var isSave: Bool { if case .save = self { true } else { false } }
}
