import ClusterModel
import Wire

extension CoordinatorMachine {
  // MARK: Time

  mutating func tick() -> [CoordinatorDirective] {
    state.now += 1
    if case .stopping = state.phase { return [] }
    var directives: [CoordinatorDirective] = []
    if state.now.isMultiple(of: settings.limits.heartbeatTicks) {
      for member in state.membership.sorted {
        directives.append(.send(envelope(.coordinatorHeartbeat), to: member.connection))
      }
    }
    if case .assembling = state.phase, state.now.isMultiple(of: settings.limits.reminderTicks) {
      directives.append(
        .log(.notice, "still waiting for workers: \(state.membership.count) of \(settings.expectedWorkers) are here"))
    }
    if let late = state.checkpoints.late(now: state.now, ticks: settings.limits.stuckTicks) {
      let seconds = Int(Double(settings.limits.stuckTicks) * settings.limits.tickSeconds)
      return directives
        + stop(
          .storage,
          "\(name(late.worker)) has not written its part of the checkpoint of step \(late.step) for \(seconds) s")
    }
    for member in state.membership.sorted {
      guard let reason = failing(member) else { continue }
      directives += lost(member.worker, reason)
      if case .assembling = state.phase { continue }
      if state.places[member.worker] != nil { break }
    }
    return directives
  }

  /// Phases in which a worker waits for others: standing still there is not its own fault.
  static let waitingPhases: Set<String> = ["idle", "receive", "reduce", "gather", "wait"]

  private func failing(_ member: Membership.Member) -> String? {
    if state.now - member.lastHeardTick > settings.limits.deadTicks { return "silent for too long" }
    guard owes(member.worker) else { return nil }
    let still = state.now - member.lastProgressTick
    let isBusy = !Self.waitingPhases.contains(member.phase)
    if isBusy, still > settings.limits.stuckTicks {
      return "hangs in \(member.phase): it lives but makes no progress"
    }
    // Nobody is busy and nobody moves: they wait for each other.
    if still > 2 * settings.limits.stuckTicks { return "waits in \(member.phase) for something that never comes" }
    return nil
  }

  /// Whether the coordinator waits for an answer of this worker.
  func owes(_ worker: WorkerID) -> Bool {
    guard state.places[worker] != nil else { return false }
    switch state.phase {
    case .preparing(let ready): return !ready.contains(worker)
    case .evaluating(let barrier): return barrier.owes(worker)
    case .stepping(let barrier): return barrier.owes(worker)
    case .assembling, .settling, .stopping, .finished: return false
    }
  }

  // MARK: Members that go

  /// The worker cannot be counted on any more.
  mutating func lost(_ worker: WorkerID, _ reason: String) -> [CoordinatorDirective] {
    let text = "\(name(worker)): \(reason)"
    let hadPlace = state.places[worker] != nil
    guard areWorkersNeeded else {
      state.membership.remove(worker)
      return []
    }
    guard hadPlace else {
      // Nobody depends on a spare, nor on anyone before there is a plan.
      state.membership.remove(worker)
      state.plan?.spares.removeAll { $0 == worker }
      return [.log(.warning, "going on without \(text)")]
    }
    // It may live on after all: it is told to stop like everybody else.
    return stop(.requeue, "lost \(text)")
  }

  /// A worker says that it cannot go on. What would happen again on a resume must not end in one.
  mutating func failed(_ worker: WorkerID, _ kind: FailureKind, _ reason: String) -> [CoordinatorDirective] {
    let outcome: Outcome.Kind
    switch kind {
    case .peerLost: return lost(worker, "failed: \(reason)")
    case .data: outcome = .data
    case .configuration: outcome = .configuration
    case .storage: outcome = .storage
    case .software: outcome = .software
    }
    guard areWorkersNeeded, state.places[worker] != nil else { return lost(worker, "failed: \(reason)") }
    return stop(outcome, "\(name(worker)): \(reason)")
  }

  /// False once what is left to do is the coordinator's own work.
  private var areWorkersNeeded: Bool {
    switch state.phase {
    case .stopping: false
    case .settling: !state.checkpoints.isCommitting
    case .assembling, .preparing, .evaluating, .stepping, .finished: true
    }
  }

  mutating func leaving(_ worker: WorkerID, _ reason: String) -> [CoordinatorDirective] {
    guard state.places[worker] != nil else { return lost(worker, "leaves (\(reason))") }
    // A worker says so until it is stopped; only the first time asks for the drain.
    return state.drainReason == nil ? drain("\(name(worker)) leaves: \(reason)") : []
  }

  // MARK: The end

  /// Finish the step, checkpoint, stop; at once where there is nothing to save.
  mutating func drain(_ reason: String) -> [CoordinatorDirective] {
    switch state.phase {
    case .stopping, .finished: return []
    case .assembling, .preparing: return stop(.drained, reason)
    case .evaluating, .stepping, .settling: break
    }
    guard state.drainReason == nil else { return [] }
    state.drainReason = reason
    return [.log(.notice, "draining at step \(state.step): \(reason)")]
  }

  /// Drain; when asked a second time, stop at once. Workers that leave do not count as asking.
  mutating func stopRequested(_ reason: String) -> [CoordinatorDirective] {
    guard state.isStopRequested else {
      state.isStopRequested = true
      return drain(reason)
    }
    return stop(.requeue, "stopped before the checkpoint was complete: \(reason)")
  }

  /// Ends a run that has nothing left to compute, once no checkpoint is in flight.
  mutating func settle() -> [CoordinatorDirective] {
    guard state.checkpoints.stepInFlight == nil else { return [] }
    if let failure = state.checkpoints.lastFailure, state.checkpoints.newest ?? 0 < state.step {
      return stop(.storage, failure)
    }
    if state.step >= settings.totalSteps { return stop(.done, "all \(settings.totalSteps) steps are done") }
    return stop(.drained, state.drainReason ?? "asked to stop")
  }

  /// Tells everybody to stop. The outcome waits for a manifest that is being written.
  mutating func stop(_ kind: Outcome.Kind, _ reason: String) -> [CoordinatorDirective] {
    switch state.phase {
    case .stopping, .finished: return []
    case .assembling, .preparing, .evaluating, .stepping, .settling: break
    }
    let disposition: Stop.Disposition =
      switch kind {
      case .done: .done
      case .drained, .requeue: .requeue
      case .configuration, .data, .peer, .numbers, .notReproducible, .storage, .software: .failed
      }
    let sends = state.membership.sorted.flatMap {
      send(.stop(Stop(disposition: disposition, reason: reason)), to: $0.worker)
    }
    guard state.checkpoints.isCommitting else { return sends + finish(kind, reason) }
    state.phase = .stopping(
      Outcome(kind: kind, reason: reason, step: state.step, lastCheckpoint: state.checkpoints.newest))
    return sends + [.log(.info, "waiting for the checkpoint of step \(state.checkpoints.stepInFlight ?? 0)")]
  }

  mutating func finish(_ kind: Outcome.Kind, _ reason: String) -> [CoordinatorDirective] {
    let outcome = Outcome(kind: kind, reason: reason, step: state.step, lastCheckpoint: state.checkpoints.newest)
    state.phase = .finished(outcome)
    return [.finish(outcome)]
  }
}
