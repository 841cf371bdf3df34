import ClusterModel
import Wire

/// A step whose numbers are bad, and what was reported of it: computed again by other workers, it shows whether the
/// samples or a machine are at fault.
struct Suspicion: Hashable, Sendable {
  /// One attempt: who computed what, with which result.
  struct Attempt: Hashable, Sendable {
    var plan: Plan
    var reports: [WorkerID: Reduced]
  }
  /// Attempts by the same workers at other places.
  struct Trial: Hashable, Sendable {
    /// Of the first attempt.
    var reason: String
    var first: Attempt
    /// Attempts that came out badly.
    var badAttempts = 1
    /// Who can have spoilt all of them; nil while they gave the same numbers.
    var suspects: Set<WorkerID>?
    /// Microbatches whose loss is not finite whoever computes it.
    var badSamples: Set<UInt32> = []
  }
  var step: Step
  /// Nil where the next attempt is the first.
  var trial: Trial?
  /// Ranges that were skipped at this step, one after the other.
  var skippedRanges = 0

  /// What two attempts say of each other.
  enum Comparison: Hashable {
    /// The same numbers. `byOthers`: what is bad in them was computed by others each time, as far as there are others.
    case same(byOthers: Bool)
    /// All of them took part in what was wrong.
    case differs(suspects: Set<WorkerID>)
  }

  /// Compares the first attempt at a step with a later one.
  /// - Parameter isGood: the later one came out well, so that whatever differs was wrong in the first. Otherwise the
  ///   number that is not finite is the wrong one; of two finite ones either can be.
  static func compare(_ first: Attempt, _ later: Attempt, isGood: Bool, shape: StepShape) -> Comparison {
    typealias Result = (workers: Set<WorkerID>, isFinite: Bool)
    /// The worker at fault took part in each number that is wrong.
    var suspects: Set<WorkerID>?
    func blame(_ one: Result, _ other: Result) {
      let wrong =
        if isGood || !one.isFinite && other.isFinite {
          one.workers
        } else if one.isFinite && !other.isFinite {
          other.workers
        } else {
          one.workers.union(other.workers)
        }
      suspects = suspects.map { $0.intersection(wrong) } ?? wrong
    }
    var byOthers = true
    var hasBadLosses = false
    let losses = later.losses
    for (microbatch, loss) in first.losses {
      guard let other = losses[microbatch] else { continue }
      // Any stage of the replica can have spoilt it.
      let (row, otherRow) = (first.row(microbatch, shape), later.row(microbatch, shape))
      if !isSame(loss, other) {
        blame((row, isFinite(loss)), (otherRow, isFinite(other)))
      } else if !isFinite(loss) {
        hasBadLosses = true
        if !row.isDisjoint(with: otherRow) { byOthers = false }
      }
    }
    if let suspects { return .differs(suspects: suspects) }
    let norms = later.norms
    for (tensor, norm) in first.norms {
      guard let other = norms[tensor] else { continue }
      // Its sum went through all replicas of the stage.
      let (column, otherColumn) = (first.column(of: norm.owner), later.column(of: other.owner))
      if !isSame(norm.value, other.value) {
        blame((column, norm.value.isFinite), (otherColumn, other.value.isFinite))
      } else if !norm.value.isFinite, !hasBadLosses, later.plan.stageCount > 1, !column.isDisjoint(with: otherColumn) {
        byOthers = false
      }
    }
    return suspects.map { .differs(suspects: $0) } ?? .same(byOthers: byOthers || later.plan.replicaCount == 1)
  }

  private static func isSame(_ a: MicrobatchLoss, _ b: MicrobatchLoss) -> Bool {
    isSame(a.languageModelSum, b.languageModelSum) && isSame(a.diffusionSum, b.diffusionSum)
  }
  /// Bit for bit; a NaN is a NaN.
  private static func isSame(_ a: Double, _ b: Double) -> Bool {
    a.bitPattern == b.bitPattern || a.isNaN && b.isNaN
  }
  fileprivate static func isFinite(_ loss: MicrobatchLoss) -> Bool {
    loss.languageModelSum.isFinite && loss.diffusionSum.isFinite
  }
}

extension Suspicion.Attempt {
  fileprivate var workers: Set<WorkerID> { Set(plan.places.joined()) }
  fileprivate var losses: [UInt32: MicrobatchLoss] {
    var result: [UInt32: MicrobatchLoss] = [:]
    for report in reports.values { for loss in report.losses { result[loss.microbatch] = loss } }
    return result
  }
  fileprivate var norms: [UInt32: (value: Double, owner: WorkerID)] {
    var result: [UInt32: (value: Double, owner: WorkerID)] = [:]
    for (worker, report) in reports {
      for norm in report.norms { result[norm.tensor] = (norm.sumOfSquares, worker) }
    }
    return result
  }
  /// The workers of the replica that computed a microbatch.
  fileprivate func row(_ microbatch: UInt32, _ shape: StepShape) -> Set<WorkerID> {
    let leaf = Int(microbatch) / shape.microbatchesPerLeaf
    return Set(plan.replicaLeaves.firstIndex { $0.contains(leaf) }.map { plan.places[$0] } ?? [])
  }
  /// Microbatches whose loss is not finite.
  fileprivate var badMicrobatches: Set<UInt32> { Set(losses.filter { !Suspicion.isFinite($0.value) }.keys) }
  /// Those that others found to be so in the first attempt.
  fileprivate func badMicrobatches(alsoBy first: Suspicion.Attempt, _ shape: StepShape) -> Set<UInt32> {
    badMicrobatches.intersection(first.badMicrobatches)
      .filter { row($0, shape).isDisjoint(with: first.row($0, shape)) }
  }

  /// Who took part in every loss that is not finite, those of bad samples aside; nil where there is none.
  fileprivate func blamed(besides badSamples: Set<UInt32>, _ shape: StepShape) -> Set<WorkerID>? {
    var workers: Set<WorkerID>?
    for microbatch in badMicrobatches.subtracting(badSamples) {
      let row = row(microbatch, shape)
      workers = workers?.intersection(row) ?? row
    }
    return workers
  }
  /// The workers of a worker's stage.
  fileprivate func column(of worker: WorkerID) -> Set<WorkerID> {
    guard let place = plan.place(of: worker) else { return [] }
    return Set(plan.places.map { $0[place.stage] })
  }
}

extension CoordinatorMachine {
  /// A step has bad numbers. Nothing of it was applied, and nothing will be: a state is made from no other sums than those
  /// of the attempt that is committed.
  ///
  /// It is computed again with everybody at another place. The same numbers again are the samples' fault: they are
  /// skipped for good. (Going back to a checkpoint first would lead to the same state `step`, bit for bit.) Other
  /// numbers are a machine's fault; where it took part in whatever was wrong, and nobody else did, it is expelled.
  mutating func suspect(_ barrier: StepBarrier, _ reason: String) -> [CoordinatorDirective] {
    guard let plan = state.plan else { return [] }
    let attempt = Suspicion.Attempt(plan: plan, reports: barrier.reports)
    var suspicion = state.suspicion.flatMap { $0.step == barrier.step ? $0 : nil } ?? Suspicion(step: barrier.step)
    guard var trial = suspicion.trial, trial.first.workers == attempt.workers else {
      // The first attempt, or the first by these workers: what others did says nothing about them.
      suspicion.trial = Suspicion.Trial(reason: reason, first: attempt)
      state.suspicion = suspicion
      // To the workers of other replicas, if there are any: the same numbers again are then not theirs.
      return again(barrier.step, reason, movedBy: plan.replicaCount > 1 ? plan.stageCount : 1)
    }
    trial.badAttempts += 1
    trial.badSamples.formUnion(attempt.badMicrobatches(alsoBy: trial.first, settings.shape))
    // As many as it takes to tell the stages of a replica apart.
    let mayTryAgain = trial.badAttempts < plan.stageCount + 2
    var comparison = Suspicion.compare(trial.first, attempt, isGood: false, shape: settings.shape)
    if settings.planted.contains(.blameSamples) { comparison = .same(byOthers: true) }
    switch comparison {
    case .differs(let blamed):
      trial.suspects = trial.suspects?.intersection(blamed) ?? blamed
    case .same:
      // Once it is known that a machine is at fault, it is among those who computed what is bad.
      if let blamed = attempt.blamed(besides: trial.badSamples, settings.shape) {
        trial.suspects?.formIntersection(blamed)
      }
    }
    suspicion.trial = trial
    state.suspicion = suspicion
    if let suspects = trial.suspects {
      if let worker = suspects.first, suspects.count == 1, canDoWithout(worker) {
        state.suspicion?.trial = nil
        let text = "\(name(worker)) computes wrongly: step \(barrier.step) is bad wherever it takes part: \(reason)"
        return expel(worker, barrier.step, "wrong wherever it takes part: \(reason)") + [.log(.error, text)]
          + regroup(text)
      }
      // The machine may have been wrong for a moment only, and the samples are bad all the same.
      let bad = attempt.badMicrobatches
      if !bad.isEmpty, bad.isSubset(of: trial.badSamples), barrier.step == state.committed {
        let names = suspects.sorted().map { name($0) }.joined(separator: ", ")
        let culprit = suspects.isEmpty ? "more than one machine" : "one of \(names)"
        let text = "step \(barrier.step) has bad samples, and \(culprit) computed wrongly besides; test the hosts"
        return [.log(.error, text)] + skip(barrier.step, suspicion, reason)
      }
      if mayTryAgain, !suspects.isEmpty { return again(barrier.step, reason, movedBy: 1) }
      return stop(
        .numbers,
        "step \(barrier.step) is bad and comes out differently each time (\(trial.reason); then \(reason)): a machine "
          + "computes wrongly, and it cannot be told which; test the hosts")
    }
    if comparison == .same(byOthers: false), mayTryAgain { return again(barrier.step, reason, movedBy: 1) }
    guard barrier.step == state.committed else {
      return stop(.notReproducible, "step \(barrier.step) was good when it was committed, and is not now: \(reason)")
    }
    return skip(barrier.step, suspicion, reason)
  }

  /// Whether there are others; one that is gone already is not let in again.
  private func canDoWithout(_ worker: WorkerID) -> Bool {
    state.membership[worker] == nil || state.membership.count > 1
  }

  /// Has a step computed by others: everybody moves by so many places.
  private mutating func again(_ step: Step, _ reason: String, movedBy places: Int) -> [CoordinatorDirective] {
    state.rotation += places
    return regroup("step \(step) is computed again by other workers: \(reason)")
  }

  /// Leaves a step's samples out for good.
  private mutating func skip(_ step: Step, _ suspicion: Suspicion, _ reason: String) -> [CoordinatorDirective] {
    guard suspicion.skippedRanges < settings.limits.skippedRanges else {
      return stop(
        .numbers,
        "step \(step): \(reason), also after \(suspicion.skippedRanges) ranges of samples were skipped; no "
          + "parameter was changed by it. Resume with a lower learning rate or clip, or look at the samples")
    }
    let samples = state.skips.samples(step: step, perStep: settings.samplesPerStep)
    do throws(SkippedSamplesError) {
      try state.skips.insert(samples, perStep: settings.samplesPerStep)
    } catch {
      return stop(.software, "\(error)")
    }
    state.suspicion = Suspicion(step: step, skippedRanges: suspicion.skippedRanges + 1)
    let text =
      "samples \(samples.lowerBound) to \(samples.upperBound - 1) are skipped for good: step \(step), the same each time: \(reason)"
    return [.recordSkip(SkipRecord(samples: samples, generation: state.generation, reason: reason))]
      + regroup(text)
  }

  /// The step has come out well. If it had not before, a machine computes wrongly: when it is clear which, it is expelled.
  mutating func cleared(_ barrier: StepBarrier) -> [CoordinatorDirective] {
    guard let suspicion = state.suspicion, suspicion.step == barrier.step else { return [] }
    state.suspicion = nil
    guard let trial = suspicion.trial, let plan = state.plan else { return [] }
    let attempt = Suspicion.Attempt(plan: plan, reports: barrier.reports)
    guard
      case .differs(let blamed) = Suspicion.compare(trial.first, attempt, isGood: true, shape: settings.shape)
    else { return [] }
    let suspects = trial.suspects?.intersection(blamed) ?? blamed
    let names = suspects.sorted().map { name($0) }.joined(separator: ", ")
    guard suspects.count == 1, let worker = suspects.first, canDoWithout(worker) else {
      let culprit = suspects.isEmpty ? "more than one machine" : suspects.count == 1 ? names : "one of \(names)"
      return [
        .log(
          .error,
          "step \(barrier.step) was bad (\(trial.reason)) and is good when others compute it: \(culprit) computes "
            + "wrongly; test the hosts")
      ]
    }
    return expel(worker, barrier.step, "bad with it (\(trial.reason)), good without") + [
      .log(
        .error,
        "\(names) computes wrongly: step \(barrier.step) was bad with it (\(trial.reason)) and is good without")
    ]
  }

  /// From here on the worker has no place in a plan, also after the coordinator was started again.
  private mutating func expel(_ worker: WorkerID, _ step: Step, _ reason: String) -> [CoordinatorDirective] {
    state.expelled.insert(worker)
    let host = state.membership[worker]?.hello.host ?? ""
    return [
      .recordExpulsion(
        ExpulsionRecord(worker: worker, host: host, step: step, generation: state.generation, reason: reason))
    ]
  }
}
