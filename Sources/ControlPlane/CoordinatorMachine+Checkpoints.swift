import ClusterModel
import Wire

extension CoordinatorMachine {
  /// Goes on with the checkpoint in flight when everybody has answered and its step is in the journal.
  mutating func decideCheckpoint() -> [CoordinatorDirective] {
    switch state.checkpoints.decide(committed: state.committed) {
    case .wait: return []
    case .commit(let parts):
      guard let step = state.checkpoints.stepInFlight else { return [] }
      return [
        .commitCheckpoint(
          CheckpointRequest(
            step: step, generation: state.generation,
            nextSample: state.skips.nextSample(step, perStep: settings.samplesPerStep),
            deviceFingerprint: state.membership.sorted.first?.hello.deviceFingerprint ?? "", parts: parts))
      ]
    case .abandon(let step, let reason):
      return [.discardCheckpoint(step)] + checkpointFailed(step, reason)
    }
  }

  mutating func checkpointCommitted(_ step: Step) -> [CoordinatorDirective] {
    guard state.checkpoints.committed(step) else { return [] }
    return [.log(.info, "checkpoint of step \(step) is complete"), .applyRetention]
      + sendToPlaced(.checkpointCommitted(step: step)) + afterCheckpoint()
  }

  /// The parts are of no use without their manifest: a full disk gets its room back.
  mutating func checkpointCommitFailed(_ step: Step, _ reason: String) -> [CoordinatorDirective] {
    guard state.checkpoints.isCommitting, state.checkpoints.stepInFlight == step else { return [] }
    return [.discardCheckpoint(step)] + checkpointFailed(step, reason)
  }

  mutating func checkpointFailed(_ step: Step, _ reason: String) -> [CoordinatorDirective] {
    let text =
      "checkpoint of step \(step) failed: \(reason); "
      + (state.checkpoints.newest.map { "the newest one is still step \($0)" } ?? "there is none yet")
    guard state.checkpoints.failed(step, text) else { return [] }
    let log = [CoordinatorDirective.log(.error, text)]
    // Before the end it is tried again: by a later step, or as the run is saved.
    if state.phase == .settling || state.checkpoints.failuresInARow >= settings.limits.checkpointFailures {
      return log + stop(.storage, text)
    }
    return log + afterCheckpoint()
  }

  /// Whoever waited for the checkpoint in flight goes on.
  private mutating func afterCheckpoint() -> [CoordinatorDirective] {
    switch state.phase {
    case .settling: settle()
    case .stopping(let outcome): finish(outcome.kind, outcome.reason)
    case .assembling, .regrouping, .preparing, .evaluating, .stepping, .finished: []
    }
  }
}
