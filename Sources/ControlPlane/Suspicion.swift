import ClusterModel
import Wire

/// A step whose numbers are bad, and what was reported of it: computed once more by other workers, it shows whether the
/// samples or a machine are at fault.
struct Suspicion: Hashable, Sendable {
  /// One attempt: who computed what, with which result.
  struct Attempt: Hashable, Sendable {
    var plan: Plan
    var reports: [WorkerID: Reduced]
  }
  var step: Step
  var reason: String
  var first: Attempt
  /// Ranges that were skipped at this step, one after the other.
  var skippedRanges = 0

  /// Whether two attempts gave the same numbers, and who alone can have made the difference.
  enum Comparison: Hashable {
    case same
    /// All of them took part in what differs.
    case differs(suspects: Set<WorkerID>)
  }

  /// What differs between the first attempt and another one; the suspects are those who computed it first.
  static func compare(_ first: Attempt, _ second: Attempt, shape: StepShape) -> Comparison {
    let (losses, others) = (Self.losses(first), Self.losses(second))
    var suspects: Set<WorkerID>?
    for (microbatch, loss) in losses where !isSame(loss, others[microbatch]) {
      let leaf = Int(microbatch) / (shape.microbatches / shape.leaves)
      guard let replica = first.plan.replicaLeaves.firstIndex(where: { $0.contains(leaf) }) else { continue }
      // Any stage of the replica can have spoilt it.
      let row = Set(first.plan.places[replica])
      suspects = suspects.map { $0.intersection(row) } ?? row
    }
    if let suspects { return .differs(suspects: suspects) }
    let (norms, otherNorms) = (Self.norms(first), Self.norms(second))
    for (tensor, norm) in norms where !isSame(norm.value, otherNorms[tensor]?.value) {
      // Its sum went through all replicas of the stage.
      guard let place = first.plan.place(of: norm.owner) else { continue }
      let column = Set(first.plan.places.map { $0[place.stage] })
      suspects = suspects.map { $0.intersection(column) } ?? column
    }
    return suspects.map { .differs(suspects: $0) } ?? .same
  }

  private static func losses(_ attempt: Attempt) -> [UInt32: MicrobatchLoss] {
    var result: [UInt32: MicrobatchLoss] = [:]
    for report in attempt.reports.values { for loss in report.losses { result[loss.microbatch] = loss } }
    return result
  }
  private static func norms(_ attempt: Attempt) -> [UInt32: (value: Double, owner: WorkerID)] {
    var result: [UInt32: (value: Double, owner: WorkerID)] = [:]
    for (worker, report) in attempt.reports {
      for norm in report.norms { result[norm.tensor] = (norm.sumOfSquares, worker) }
    }
    return result
  }

  private static func isSame(_ a: MicrobatchLoss, _ b: MicrobatchLoss?) -> Bool {
    isSame(a.languageModelSum, b?.languageModelSum) && isSame(a.diffusionSum, b?.diffusionSum)
  }
  /// Bit for bit; a NaN is a NaN.
  private static func isSame(_ a: Double, _ b: Double?) -> Bool {
    guard let b else { return false }
    return a.bitPattern == b.bitPattern || a.isNaN && b.isNaN
  }
}

extension CoordinatorMachine {
  /// A step that is not committed has bad numbers. Nothing of it was applied: state `step` is intact.
  ///
  /// It is computed once more with everybody at another place. The same numbers again are the samples' fault: they
  /// are skipped for good. Going back to a checkpoint first would lead to the same state `step`, bit for bit.
  mutating func suspect(_ barrier: StepBarrier, _ reason: String) -> [CoordinatorDirective] {
    guard let plan = state.plan else { return [] }
    let attempt = Suspicion.Attempt(plan: plan, reports: barrier.reports)
    guard barrier.step == state.committed else {
      return stop(.notReproducible, "step \(barrier.step) was good when it was committed, and is not now: \(reason)")
    }
    guard var suspicion = state.suspicion, suspicion.step == barrier.step, suspicion.reason != "" else {
      let skipped = state.suspicion.flatMap { $0.step == barrier.step ? $0.skippedRanges : nil } ?? 0
      state.suspicion = Suspicion(step: barrier.step, reason: reason, first: attempt, skippedRanges: skipped)
      state.rotation += 1
      return regroup("step \(barrier.step) is computed again by other workers: \(reason)")
    }
    guard case .same = Suspicion.compare(suspicion.first, attempt, shape: settings.shape) else {
      return stop(
        .numbers,
        "step \(barrier.step) is bad and comes out differently each time (\(suspicion.reason); then \(reason)): a machine "
          + "computes wrongly, and it cannot be told which; test the hosts")
    }
    guard suspicion.skippedRanges < settings.limits.skippedRanges else {
      return stop(
        .numbers,
        "step \(barrier.step): \(reason), also after \(suspicion.skippedRanges) ranges of samples were skipped; no "
          + "parameter was changed by it. Resume with a lower learning rate or clip, or look at the samples")
    }
    let samples = state.skips.samples(step: barrier.step, perStep: settings.samplesPerStep)
    do throws(SkippedSamplesError) {
      try state.skips.insert(samples, perStep: settings.samplesPerStep)
    } catch {
      return stop(.software, "\(error)")
    }
    suspicion.skippedRanges += 1
    suspicion.reason = ""
    state.suspicion = suspicion
    state.newestSkip = state.generation
    let text =
      "samples \(samples.lowerBound) to \(samples.upperBound - 1) are skipped for good: step \(barrier.step), twice the same: \(reason)"
    return [.recordSkip(SkipRecord(samples: samples, generation: state.generation, reason: reason))]
      + regroup(text)
  }

  /// The step has come out well. If it had not before, a machine computes wrongly: when it is clear which, it is expelled.
  mutating func cleared(_ barrier: StepBarrier) -> [CoordinatorDirective] {
    guard let suspicion = state.suspicion, suspicion.step == barrier.step else { return [] }
    state.suspicion = nil
    guard suspicion.reason != "", let plan = state.plan else { return [] }
    let attempt = Suspicion.Attempt(plan: plan, reports: barrier.reports)
    guard case .differs(let suspects) = Suspicion.compare(suspicion.first, attempt, shape: settings.shape) else {
      return []
    }
    let names = suspects.sorted().map { name($0) }.joined(separator: ", ")
    guard suspects.count == 1, let worker = suspects.first, state.membership.count > 1 else {
      return [
        .log(
          .error,
          "step \(barrier.step) was bad (\(suspicion.reason)) and is good when others compute it: one of \(names) computes "
            + "wrongly; test the hosts")
      ]
    }
    state.expelled.insert(worker)
    return [
      .log(
        .error,
        "\(names) computes wrongly: step \(barrier.step) was bad with it (\(suspicion.reason)) and is good without")
    ]
  }
}
