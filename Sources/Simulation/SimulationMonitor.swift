import ClusterModel
import ControlPlane
import Wire

/// What the invariants have seen: apart from journal and machines, so that a fault of those cannot hide from them.
struct SimulationMonitor {
  var violation: SimulationViolation?
  /// The newest generation that anybody began, and who.
  var newestGeneration = Generation(0)
  /// The generations begun, and by which coordinator.
  var beganBy: [Generation: Int] = [:]
  /// Steps that were committed and not lost by a disk that lied.
  var committed: Step = 0
  /// Steps that were ever committed.
  var everCommitted: Step = 0
  /// Which process had a number first.
  var processOf: [WorkerID: Int32] = [:]
  /// The newest commit, and who wanted to go then.
  var waiting: (generation: Generation, step: Step, leavers: Set<WorkerID>)?
  /// Processes whose numbers a disk forgot: others may have been given the same.
  var forgotten: Set<Int32> = []
}

extension SimulatedCluster {
  /// One coordinator a generation, each newer than the last.
  func began(_ generation: Generation, by coordinator: CoordinatorProcess) {
    if let other = monitor.beganBy[generation] {
      return fail("\(generation) was begun by coordinator \(other) and again by \(coordinator.name)")
    }
    if generation < monitor.newestGeneration {
      return fail("\(coordinator.name) began \(generation) after \(monitor.newestGeneration)")
    }
    monitor.beganBy[generation] = coordinator.index
    monitor.newestGeneration = generation
  }

  /// How long after a fault its delays may still show: what was under way, and the patience of the coordinator.
  private static let aftermath = 40 * VirtualTime.second

  /// What gets lost is asked for again: without a fault that stops or delays somebody, nobody stands still.
  func ends(_ generation: Generation, _ reason: String) {
    guard reason.contains(CoordinatorMachine.endlessWait) || reason.contains(CoordinatorMachine.standstill) else {
      return
    }
    let isExcused = scenario.faults.contains { fault in
      guard fault.time <= now, now < fault.end + Self.aftermath else { return false }
      switch fault.kind {
      case .killWorker, .powerOffWorker, .drainWorker, .joinWorker, .killCoordinator, .secondCoordinator,
        .drainCoordinator, .resetConnection, .bitRot, .computeWrongly:
        return false
      case .badNetwork(let loss, _, let delay, _): return loss > 20 || delay > VirtualTime.second
      default: return true
      }
    }
    if !isExcused { fail("\(generation) ended, and nothing stops or delays anybody: \(reason)") }
  }

  /// The disk has lost what it had said to keep: numbers that it no longer knows of may be given again.
  func forget() {
    let contents = journal.contents
    monitor.committed = Step(contents.steps.count)
    monitor.newestGeneration = contents.newestGeneration
    monitor.beganBy = monitor.beganBy.filter { $0.key <= contents.newestGeneration }
    for (worker, process) in monitor.processOf where worker.number > contents.newestWorker {
      monitor.forgotten.insert(process)
      monitor.processOf[worker] = nil
    }
  }

  /// A step is in the journal.
  func committed(_ record: StepRecord, by coordinator: CoordinatorProcess) {
    if record.generation < monitor.newestGeneration {
      return fail(
        "\(coordinator.name) committed step \(record.step) in \(record.generation), though \(monitor.newestGeneration) has begun"
      )
    }
    guard record.step < scenario.steps else { return fail("step \(record.step) is beyond the run") }
    let expected = reference.steps[Int(record.step)]
    guard record.samples == expected.samples else {
      return fail("step \(record.step) consumed the samples \(record.samples), not \(expected.samples)")
    }
    guard record.gradientSumOfSquares.bitPattern == expected.sumOfSquares.bitPattern,
      record.languageModelLoss?.bitPattern == expected.languageModelLoss?.bitPattern,
      record.diffusionLoss?.bitPattern == expected.diffusionLoss?.bitPattern,
      record.targetTokens == expected.targetTokens, record.images == expected.images
    else {
      return fail("the record of step \(record.step) differs from the undisturbed run's: \(record), not \(expected)")
    }
    let count = Step(journal.contents.steps.count)
    guard count >= monitor.committed else {
      return fail("the journal has \(count) steps, but \(monitor.committed) were committed")
    }
    monitor.committed = count
    monitor.everCommitted = max(monitor.everCommitted, count)
    stamp(10, Int(record.step))
    checkLeavers(record, coordinator)
  }

  /// Nobody who wants to go is kept for another step.
  private func checkLeavers(_ record: StepRecord, _ coordinator: CoordinatorProcess) {
    guard let state = coordinator.machine?.state, state.drainReason == nil else {
      monitor.waiting = nil
      return
    }
    let leavers = Set(state.leavers.keys)
    if let before = monitor.waiting, before.generation == record.generation, before.step < record.step,
      let kept = before.leavers.intersection(leavers).min()
    {
      fail("\(kept) wanted to leave during step \(before.step) and is there in step \(record.step)")
    }
    monitor.waiting = (record.generation, record.step, leavers)
  }

  /// Nobody waits for others to come who was asked to end, or keeps somebody who wants to go.
  func checkWaiting(_ coordinator: CoordinatorProcess) {
    guard let state = coordinator.machine?.state, case .assembling = state.phase else { return }
    if let kept = state.leavers.keys.min() {
      fail("\(coordinator.name) waits for workers and keeps \(kept), which wants to go")
    }
    if let reason = state.drainReason { fail("\(coordinator.name) waits for workers and is to end: \(reason)") }
  }

  /// Samples are skipped for good: those that are bad, and no others.
  func skipped(_ record: SkipRecord) {
    let step = Step(journal.contents.steps.count)
    guard step < scenario.steps, record.samples.contains(where: scenario.model.poisoned.contains) else {
      return fail("samples \(record.samples) are skipped before step \(step), and nothing is wrong with them")
    }
  }

  /// Who computes wrongly has no place any more, whatever became of the coordinator that found it out.
  func planned(_ record: PlanRecord) {
    if let worker = record.plan.places.joined().first(where: journal.contents.expelled.contains) {
      fail("\(worker) has a place in the plan of \(record.generation), and was expelled")
    }
  }

  func evaluated(_ record: EvaluationRecord) {
    guard record.step <= scenario.steps else { return fail("an evaluation of step \(record.step)") }
    let losses = scenario.model.evaluation(
      reference.states[Int(record.step)], microbatches: scenario.validationMicrobatches)
    let tokens = losses.reduce(0) { $0 + $1.targetTokens }
    let expected = tokens == 0 ? nil : losses.reduce(0.0) { $0 + $1.languageModelSum } / Double(tokens)
    guard record.languageModelLoss?.bitPattern == expected?.bitPattern else {
      return fail("the evaluation of step \(record.step) differs from the undisturbed run's")
    }
  }

  /// A number belongs to one process for ever.
  func numbered(_ record: WorkerRecord, by coordinator: CoordinatorProcess) {
    if let other = monitor.processOf[record.worker], other != record.processID,
      monitor.forgotten.isDisjoint(with: [other, record.processID])
    {
      return fail("\(coordinator.name) gave \(record.worker) of process \(other) to process \(record.processID)")
    }
    monitor.processOf[record.worker] = record.processID
  }

  /// A worker is about to make state `step + 1`.
  func applies(_ step: Step, _ worker: WorkerProcess) {
    guard step >= monitor.everCommitted else { return }
    fail("\(worker.name) applies step \(step), but \(monitor.everCommitted) steps are committed")
  }

  /// What is held is what the undisturbed run had.
  func check(_ held: HeldTensors, of worker: WorkerProcess, _ occasion: String) {
    guard held.step < reference.states.count else { return fail("\(worker.name) holds state \(held.step)") }
    let expected = reference.states[Int(held.step)]
    for range in held.parameters {
      for tensor in range where held.values.parameters[tensor] != expected.parameters[tensor] {
        return fail("\(worker.name) \(occasion): parameters of tensor \(tensor) are not those of state \(held.step)")
      }
    }
    for range in held.moments {
      for tensor in range
      where held.values.first[tensor] != expected.first[tensor] || held.values.second[tensor] != expected.second[tensor]
      {
        return fail("\(worker.name) \(occasion): moments of tensor \(tensor) are not those of state \(held.step)")
      }
    }
  }

  func check(_ values: StandInModel.Values?, is step: Step, _ what: String) {
    guard values == reference.states[Int(step)] else {
      return fail("\(what) is not state \(step) of the undisturbed run")
    }
  }

  /// A manifest is in place: the checkpoint must load.
  func manifested(_ request: CheckpointRequest) {
    guard let values = store.load(request.step, count: scenario.model.tensorCount) else {
      return fail("the checkpoint of step \(request.step) was committed and does not load")
    }
    check(values, is: request.step, "the checkpoint of step \(request.step)")
    guard request.nextSample == (request.step == 0 ? 0 : reference.steps[Int(request.step) - 1].samples.upperBound)
    else {
      return fail("the checkpoint of step \(request.step) goes on at sample \(request.nextSample)")
    }
    guard request.step <= monitor.everCommitted else {
      return fail("the checkpoint of step \(request.step) precedes its step: \(monitor.everCommitted) are committed")
    }
  }

  /// Checkpoints that nothing has happened to always load.
  func checkStore() {
    for step in store.committed where store.folders[step]?.isDamaged == false {
      guard store.load(step, count: scenario.model.tensorCount) != nil else {
        return fail("the checkpoint of step \(step) does not load, and nothing has happened to its files")
      }
    }
  }

  /// How a coordinator may end.
  func ended(_ outcome: Outcome, _ coordinator: CoordinatorProcess) {
    checkStore()
    // Whatever ends one that was followed by another is its own affair.
    if let generation = coordinator.machine?.state.generation, monitor.newestGeneration > generation { return }
    switch outcome.kind {
    case .done: finished(outcome)
    // None of these without a reason: a run that stops for nothing is no run that survives anything.
    case .drained, .requeue: if !wasAskedToStop { fail("nobody asked, but the run stopped: \(outcome)") }
    case .superseded: if !wasUsurped { fail("nobody took over, but \(coordinator.name) stopped: \(outcome)") }
    case .storage: if !hadDiskTrouble { fail("no disk was at fault, but the run stopped: \(outcome)") }
    case .configuration, .data, .peer, .numbers, .notReproducible, .software:
      fail("\(coordinator.name) ended the run: \(outcome.kind.rawValue), \(outcome)")
    }
  }

  private var wasAskedToStop: Bool {
    scenario.faults.contains { fault in
      switch fault.kind {
      case .drainCoordinator, .drainWorker: fault.time <= now
      default: false
      }
    }
  }
  private var wasUsurped: Bool {
    scenario.faults.contains { if case .usurpCoordinator = $0.kind { $0.time <= now } else { false } }
  }
  private var hadDiskTrouble: Bool {
    scenario.faults.contains { fault in
      switch fault.kind {
      case .diskFull, .slowDisk, .lyingDisk, .powerOffStorage, .bitRot: fault.time <= now
      default: false
      }
    }
  }

  private func finished(_ outcome: Outcome) {
    isDone = true
    let steps = journal.contents.steps
    guard steps.count == Int(scenario.steps) else {
      return fail("the run is done with \(steps.count) of \(scenario.steps) steps in the journal")
    }
    for (index, record) in steps.enumerated()
    where record.step != Step(index) || record.samples != reference.steps[index].samples {
      return fail("step \(index) of the journal is \(record)")
    }
    guard store.isCommitted(scenario.steps) else { return fail("the run is done without its last checkpoint") }
    guard store.folders[scenario.steps]?.isDamaged == false else { return }
    check(store.load(scenario.steps, count: scenario.model.tensorCount), is: scenario.steps, "the last checkpoint")
    if scenario.validationMicrobatches > 0, !journal.contents.evaluations.contains(where: { $0.step == scenario.steps })
    {
      fail("the run is done without its last evaluation")
    }
  }
}
