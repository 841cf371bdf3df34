import ClusterModel
import Wire

extension CoordinatorMachine {
  // MARK: Forming a generation

  /// Workers that are alike on one host compete while they measure, one more than the other by chance: they
  /// count as equally fast, at the mean of what they measured.
  static func speed(of worker: Hello, among all: [Hello]) -> Double {
    let alike = all.filter {
      $0.host == worker.host && $0.threads == worker.threads && $0.deviceFingerprint == worker.deviceFingerprint
    }
    return alike.reduce(0) { $0 + $1.gigaflopsPerSecond } / Double(max(alike.count, 1))
  }

  /// All workers are there: plan, record, announce.
  mutating func form() -> [CoordinatorDirective] {
    let members = state.membership.sorted
    let capacities = members.map { member in
      WorkerCapacity(
        worker: member.worker, gigaflopsPerSecond: Self.speed(of: member.hello, among: members.map(\.hello)),
        memoryLimitBytes: member.hello.memoryLimitBytes == 0 ? .max : member.hello.memoryLimitBytes)
    }
    let decision: PlanDecision
    do throws(PlanError) {
      decision = try Planner.plan(
        units: settings.units, workers: capacities, stages: settings.stages, shape: settings.shape,
        schedule: settings.schedule, memory: settings.memory)
    } catch {
      return stop(.configuration, "\(error)")
    }
    state.plan = decision.plan
    for (replica, row) in decision.plan.places.enumerated() {
      for (stage, worker) in row.enumerated() { state.places[worker] = Place(replica: replica, stage: stage) }
    }
    state.phase = .preparing(ready: [])
    state.membership.restartProgress(now: state.now)
    let peers = state.membership.sorted.map {
      Peer(worker: $0.worker, dataEndpoint: $0.hello.dataEndpoint, publicKey: $0.connection.publicKey)
    }
    let prepare = ControlMessage.prepare(Prepare(plan: decision.plan, peers: peers, fromStep: state.step))
    let record = PlanRecord(
      generation: state.generation, fromStep: state.step, plan: decision.plan, reasons: decision.reasons,
      deviceFingerprint: state.membership.sorted.first?.hello.deviceFingerprint ?? "")
    return [.persistPlan(record)]
      + decision.reasons.map { .log(.info, "plan: \($0)") }
      + state.membership.sorted.flatMap { send(prepare, to: $0.worker) }
  }

  mutating func receive(_ ready: Ready, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard case .preparing(var done) = state.phase, ready.step == state.step else { return nil }
    guard state.places[worker] != nil else { return [] }
    guard done.insert(worker).inserted else { return nil }
    guard ready.dataFingerprint == settings.dataFingerprint else {
      return stop(
        .data,
        "\(name(worker)) has data of fingerprint \(ready.dataFingerprint), the coordinator of "
          + "\(settings.dataFingerprint): all hosts must read the same prepared data")
    }
    state.membership.setMemory(ready.memoryBytes, of: worker)
    state.phase = .preparing(ready: done)
    guard done.count == placed.count else { return [] }
    return [.log(.info, "ready at step \(state.step): \(done.count) of \(placed.count) workers")] + nextAtBoundary()
  }

  // MARK: Between two steps

  var isEvaluationDue: Bool {
    guard settings.validationMicrobatches > 0, !state.evaluated.contains(state.step) else { return false }
    if state.step == fromStep || state.step >= settings.totalSteps { return true }
    return settings.validationEvery > 0 && state.step.isMultiple(of: settings.validationEvery)
  }

  /// All workers hold state `step`, and the journal knows: what comes next?
  mutating func nextAtBoundary() -> [CoordinatorDirective] {
    let isDraining = state.drainReason != nil
    state.membership.restartProgress(now: state.now)
    if !isDraining, isEvaluationDue {
      state.phase = .evaluating(EvaluationBarrier(step: state.step, workers: placed))
      return sendToPlaced(.evaluate(step: state.step))
    }
    let isSaved =
      state.step == 0 || state.checkpoints.newest == state.step || state.checkpoints.stepInFlight == state.step
    if state.step >= settings.totalSteps || isDraining && isSaved {
      state.phase = .settling
      return settle()
    }
    state.phase = .stepping(StepBarrier(step: state.step, workers: placed))
    return sendToPlaced(.runStep(step: state.step))
  }

  // MARK: A step

  mutating func receive(_ report: Reduced, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard case .stepping(var barrier) = state.phase else { return nil }
    switch barrier.accept(report, from: worker) {
    case .ignored: return nil
    case .waiting:
      state.phase = .stepping(barrier)
      return []
    case .complete: break
    }
    do throws(ReportError) {
      let record = try barrier.sum(settings, generation: state.generation)
      barrier.hold(record)
      state.phase = .stepping(barrier)
      return update()
    } catch {
      return stopForReport(error, during: "step \(barrier.step)")
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

  /// Sends the update of a held step, unless it must carry a checkpoint and has to wait for the one in flight.
  mutating func update() -> [CoordinatorDirective] {
    guard case .stepping(var barrier) = state.phase, barrier.phase == .held, let record = barrier.record else {
      return []
    }
    if barrier.step + 1 == settings.stopAfter, state.drainReason == nil {
      state.drainReason = "step \(barrier.step + 1) is where it was to stop"
    }
    var carries = isCheckpointDue
    if carries, state.checkpoints.stepInFlight != nil {
      let mustCarry = barrier.step + 1 >= settings.totalSteps || state.drainReason != nil
      if mustCarry { return [] }
      // Training does not wait for a slow disk: the next step carries it.
      state.checkpoints.postpone()
      carries = false
    }
    if carries { state.checkpoints.begin(step: barrier.step + 1, workers: placed, now: state.now) }
    barrier.beginUpdate(record)
    state.phase = .stepping(barrier)
    state.membership.restartProgress(now: state.now)
    return sendToPlaced(
      .update(
        Update(step: barrier.step, gradientSumOfSquares: record.gradientSumOfSquares, checkpoint: carries)))
  }

  mutating func receive(_ report: Updated, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard case .stepping(var barrier) = state.phase else { return nil }
    switch barrier.accept(report, from: worker) {
    case .ignored: return nil
    case .waiting:
      state.membership.setMemory(report.memoryBytes, of: worker)
      state.phase = .stepping(barrier)
      return []
    case .complete: break
    }
    state.membership.setMemory(report.memoryBytes, of: worker)
    barrier.beginJournaling()
    state.phase = .stepping(barrier)
    return barrier.record.map { [.commitStep($0)] } ?? []
  }

  mutating func stepJournaled(_ step: Step) -> [CoordinatorDirective] {
    guard case .stepping(let barrier) = state.phase, barrier.phase == .journaling, barrier.step == step else {
      return []
    }
    state.step = step + 1
    state.checkpoints.reached(state.step)
    // The parts of this very state may be complete already.
    return decideCheckpoint() + nextAtBoundary()
  }

  // MARK: Evaluation

  mutating func receive(_ report: Evaluated, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard case .evaluating(var barrier) = state.phase else { return nil }
    switch barrier.accept(report, from: worker) {
    case .ignored: return nil
    case .waiting:
      state.phase = .evaluating(barrier)
      return []
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
