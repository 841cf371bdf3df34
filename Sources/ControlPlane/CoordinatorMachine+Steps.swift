import ClusterModel
import Wire

extension CoordinatorMachine {
  // MARK: Between two steps

  var isEvaluationDue: Bool {
    guard settings.validationMicrobatches > 0, !state.evaluated.contains(state.step) else { return false }
    if state.step == fromStep || state.step >= settings.totalSteps { return true }
    return settings.validationEvery > 0 && state.step.isMultiple(of: settings.validationEvery)
  }

  /// All workers hold state `step`: what comes next?
  mutating func nextAtBoundary() -> [CoordinatorDirective] {
    state.membership.restartProgress(now: state.now)
    if state.drainReason == nil {
      if let reason = reasonToRegroup() { return regroup(reason) }
      if let reason = reasonToDrain() { return drain(reason) + goOn() }
    }
    return goOn()
  }

  private mutating func goOn() -> [CoordinatorDirective] {
    let isDraining = state.drainReason != nil
    if !isDraining, isEvaluationDue {
      state.phase = .evaluating(EvaluationBarrier(step: state.step, ranks: ranks()))
      return order(.evaluate(step: state.step), of: placed)
    }
    if state.step >= settings.totalSteps || isDraining {
      state.phase = .settling
      return settle()
    }
    state.phase = .stepping(StepBarrier(step: state.step, ranks: ranks()))
    return order(.runStep(step: state.step), of: placed)
  }

  // MARK: A step

  mutating func receive(_ report: Reduced, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard var barrier = takeStepBarrier() else { return nil }
    let acceptance = barrier.accept(report, from: worker)
    state.phase = .stepping(barrier)
    switch acceptance {
    case .ignored: return nil
    case .waiting: return []
    case .complete: break
    }
    do throws(ReportError) {
      let samples = state.skips.samples(step: barrier.step, perStep: settings.samplesPerStep)
      let record = try barrier.sum(settings, samples: samples, generation: state.generation)
      if state.committed == barrier.step, let reason = settings.lossSpike?.isSpike(record, after: state.recent) {
        return suspect(barrier, reason)
      }
      let findings = cleared(barrier)
      barrier.beginJournaling(record)
      state.phase = .stepping(barrier)
      state.journaling = record
      return findings + [.commitStep(record)]
    } catch {
      if error.isNumeric { return suspect(barrier, "\(error)") }
      return stopForReport(error, during: "step \(barrier.step)")
    }
  }

  /// The step is committed: whatever happens now, the state that it makes is the one that the record stands for.
  mutating func stepJournaled(_ step: Step) -> [CoordinatorDirective] {
    guard let record = state.journaling, record.step == step else { return [] }
    state.journaling = nil
    state.committed = max(state.committed, step + 1)
    state.norm = CommittedNorm(record)
    state.fruitlessGenerations = 0
    remember(record)
    switch state.phase {
    case .stepping(let barrier) where barrier.phase == .journaling && barrier.step == step: return update(record)
    case .regrouping: return regrouped()
    default: return []
    }
  }

  private mutating func stopForReport(_ error: ReportError, during what: String) -> [CoordinatorDirective] {
    if case .denominatorsUnknown = error { return stop(.data, "\(what): \(error)") }
    guard error.isNumeric else { return stop(.peer, "\(what): \(error)") }
    return stop(
      .numbers,
      "\(what): \(error); no parameter was changed by it. Resume with a lower learning rate or clip, or look at the samples"
    )
  }

  private var isCheckpointDue: Bool {
    let next = state.step + 1
    guard !state.checkpoints.isSaved(next) else { return false }
    return next >= settings.totalSteps || state.drainReason != nil || state.checkpoints.isOverdue
      || settings.checkpointEvery > 0 && next.isMultiple(of: settings.checkpointEvery)
  }

  /// Keeps what the next step's losses are compared with.
  private mutating func remember(_ record: StepRecord) {
    guard let window = settings.lossSpike?.window else { return }
    state.recent.removeAll { $0.step == record.step }
    state.recent.append(record)
    if state.recent.count > window { state.recent.removeFirst(state.recent.count - window) }
  }

  private mutating func update(_ record: StepRecord) -> [CoordinatorDirective] {
    guard case .stepping(var barrier) = state.phase else { return [] }
    let next = barrier.step + 1
    if next == settings.stopAfter, state.drainReason == nil {
      state.drainReason = "step \(next) is where it was to stop"
    }
    var carries = isCheckpointDue
    if carries, state.checkpoints.stepInFlight != nil {
      // Training does not wait for a slow disk: the next step carries it, or the end of the run saves it.
      state.checkpoints.postpone()
      carries = false
    }
    if carries { state.checkpoints.begin(step: next, workers: placed, now: state.now) }
    let copies = settings.copyEvery > 0 && next.isMultiple(of: settings.copyEvery) && state.places.count > 1
    barrier.beginUpdate()
    state.phase = .stepping(barrier)
    state.membership.restartProgress(now: state.now)
    return order(
      .update(
        Update(
          step: barrier.step, gradientSumOfSquares: record.gradientSumOfSquares, checkpoint: carries, copy: copies)),
      of: placed)
  }

  mutating func receive(_ report: Updated, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard var barrier = takeStepBarrier() else { return nil }
    let acceptance = barrier.accept(report, from: worker)
    state.phase = .stepping(barrier)
    if acceptance != .ignored, let plan = state.plan, let place = state.places[worker] {
      let microbatches = settings.shape.microbatches(ofLeaves: plan.replicaLeaves[place.replica])
      state.paces.record(report.phases, of: worker, microbatches: microbatches.count)
    }
    switch acceptance {
    case .ignored: return nil
    case .waiting:
      state.membership.setMemory(report.memoryBytes, of: worker)
      return []
    case .complete: break
    }
    state.membership.setMemory(report.memoryBytes, of: worker)
    state.step = barrier.step + 1
    state.checkpoints.reached(state.step)
    // The parts of this very state may be complete already.
    return decideCheckpoint() + nextAtBoundary()
  }

  /// A worker keeps its ward's copy of a state.
  mutating func copied(_ step: Step, by worker: WorkerID) -> [CoordinatorDirective]? {
    guard state.places[worker] != nil, step <= state.committed else { return nil }
    state.copies.accept(step, from: worker, of: state.places.count)
    return []
  }

  // MARK: Evaluation

  mutating func receive(_ report: Evaluated, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard var barrier = takeEvaluationBarrier() else { return nil }
    let acceptance = barrier.accept(report, from: worker)
    state.phase = .evaluating(barrier)
    switch acceptance {
    case .ignored: return nil
    case .waiting: return []
    case .complete: break
    }
    do throws(ReportError) {
      let record = try barrier.sum(microbatches: settings.validationMicrobatches, generation: state.generation)
      state.evaluated.insert(record.step)
      return [.recordEvaluation(record)] + nextAtBoundary()
    } catch {
      return stopForReport(error, during: "validation of step \(barrier.step)")
    }
  }

  func name(_ worker: WorkerID) -> String { state.membership[worker]?.name ?? "\(worker)" }
}
