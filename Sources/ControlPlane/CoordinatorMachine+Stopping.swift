import ClusterModel
import Wire

extension CoordinatorMachine {
  // MARK: The end

  /// Finish the step, checkpoint, stop; at once where there is nothing to save.
  mutating func drain(_ reason: String) -> [CoordinatorDirective] {
    switch state.phase {
    case .stopping, .finished: return []
    case .assembling:
      return state.hasFormed
        ? stop(.requeue, "\(reason); there are no workers to save what they held")
        : stop(.drained, reason)
    case .regrouping, .preparing:
      if state.committed == state.checkpoints.newest ?? 0 { return stop(.drained, reason) }
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

  /// Ends a run that has nothing left to compute, once its state is saved.
  mutating func settle() -> [CoordinatorDirective] {
    guard state.checkpoints.stepInFlight == nil else { return [] }
    guard state.step == 0 || state.checkpoints.newest == state.step else {
      // Who was lost while another checkpoint was being completed was not missed until now.
      guard placed.allSatisfy({ state.membership[$0] != nil }) else {
        return regroup("a worker was lost before the last state was saved")
      }
      state.checkpoints.begin(step: state.step, workers: placed, now: state.now)
      return order(.save(step: state.step), of: placed)
    }
    // A run that drains at its last step does not evaluate it: whoever resumes it does.
    if state.step >= settings.totalSteps, !isEvaluationDue {
      return stop(.done, "all \(settings.totalSteps) steps are done")
    }
    return stop(.drained, state.drainReason ?? "asked to stop")
  }

  /// Tells everybody to stop. The outcome waits for a manifest that is being written.
  mutating func stop(_ kind: Outcome.Kind, _ reason: String) -> [CoordinatorDirective] {
    switch state.phase {
    case .stopping, .finished: return []
    case .assembling, .regrouping, .preparing, .evaluating, .stepping, .settling: break
    }
    let sends = send(stopEnvelope(kind, reason), to: state.membership.sorted.map(\.connection))
    guard state.checkpoints.isCommitting else { return sends + finish(kind, reason) }
    state.phase = .stopping(
      Outcome(kind: kind, reason: reason, step: state.step, lastCheckpoint: state.checkpoints.newest))
    return sends + [.log(.info, "waiting for the checkpoint of step \(state.checkpoints.stepInFlight ?? 0)")]
  }

  private func stopEnvelope(_ kind: Outcome.Kind, _ reason: String) -> Envelope {
    envelope(.stop(Stop(disposition: kind.disposition, reason: reason)))
  }

  /// What a coordinator whose run is over repeats to every member until it has hung up; nil where another one speaks to
  /// them now.
  package var farewell: Envelope? {
    guard case .finished(let outcome) = state.phase, outcome.kind != .superseded else { return nil }
    return stopEnvelope(outcome.kind, outcome.reason)
  }

  mutating func finish(_ kind: Outcome.Kind, _ reason: String) -> [CoordinatorDirective] {
    let outcome = Outcome(kind: kind, reason: reason, step: state.step, lastCheckpoint: state.checkpoints.newest)
    state.phase = .finished(outcome)
    return [.finish(outcome)]
  }
}
