import ClusterModel
import Wire

/// How a generation begins: who is there, who holds what, who computes what from which state.
extension CoordinatorMachine {
  // MARK: Assembling

  /// Begins the run with whoever is here, if that is enough.
  mutating func assembled() -> [CoordinatorDirective] {
    guard case .assembling = state.phase, state.membership.count > 0 else { return [] }
    let isComplete: Bool
    if let grace = state.graceTick {
      // What workers hold is worth waiting for a moment: with all of them not a step is computed again.
      isComplete = state.now >= grace || state.awaited.isSubset(of: state.membership.workers)
    } else {
      isComplete = state.hasFormed || state.membership.count >= settings.expectedWorkers
    }
    guard isComplete else { return [] }
    if case .failure(let error) = decidePlan() {
      // The workers that the user asked for are here and it cannot be done with them: more of the same do not help.
      if !state.hasFormed, state.graceTick == nil { return stop(.configuration, "\(error)") }
      return wait("\(error)")
    }
    // Nobody has computed anything in the first generation of this process: it need not end.
    return regroup(nil)
  }

  mutating func wait(_ reason: String) -> [CoordinatorDirective] {
    guard state.waitingReason != reason else { return [] }
    state.waitingReason = reason
    return [.log(.warning, "waiting for workers: \(reason)")]
  }

  /// Nobody can go on: whoever is left keeps what it holds until others have come, but not who wants to go, and not when
  /// the run is to end.
  mutating func reassemble(_ reason: String) -> [CoordinatorDirective] {
    if let drain = state.drainReason {
      return stop(.requeue, "\(drain); the workers that are left cannot save what they held: \(reason)")
    }
    state.phase = .assembling
    state.waitingReason = nil
    let leavers = state.leavers.sorted { $0.key < $1.key }.flatMap { release($0.key, $0.value) }
    // Whoever comes back first is to wait a moment for the others.
    if state.membership.count == 0 { state.awaited = Set(placed) }
    return leavers + wait(reason)
  }

  // MARK: Regrouping

  /// Begins a generation with all members.
  /// - Parameters:
  ///   - reason: why the present one ends; nil when it has not begun.
  ///   - other: a generation that the new one must follow, too.
  mutating func regroup(_ reason: String?, above other: Generation = Generation(0)) -> [CoordinatorDirective] {
    var directives: [CoordinatorDirective] = []
    if let reason {
      state.fruitlessGenerations += 1
      guard state.fruitlessGenerations <= settings.limits.fruitlessGenerations else {
        return stop(
          .requeue, "\(state.fruitlessGenerations) generations in a row got no step done; the last one ended: \(reason)"
        )
      }
      directives += raiseGeneration(above: other, reason)
    }
    state.places = [:]
    state.copies = CopyProgress()
    state.waitingReason = nil
    state.graceTick = nil
    state.hasFormed = true
    if !settings.planted.contains(.keepCheckpoint), let step = state.checkpoints.abandon() {
      directives.append(.log(.notice, "the checkpoint of step \(step) is given up; the next step writes another"))
    }
    let members = state.membership.sorted.map(\.worker)
    state.participants = Set(members)
    guard !members.isEmpty else { return directives + reassemble("all workers are gone") }
    state.phase = .regrouping(Regrouping(pending: Set(members)))
    state.membership.restartProgress(now: state.now)
    return directives + order(.regroup, of: members)
  }

  /// The number of the next generation is taken; nobody has heard of it.
  mutating func raiseGeneration(above other: Generation, _ reason: String) -> [CoordinatorDirective] {
    let previous = state.generation
    state.generation = max(previous, other).next
    return [
      .persistGeneration(state.generation, after: previous, reason: reason),
      .log(.notice, "\(state.generation): \(reason)"),
    ]
  }

  mutating func receive(_ standing: Standing, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard var regrouping = takeRegrouping() else { return nil }
    let isExpected = regrouping.pending.remove(worker) != nil
    if isExpected { regrouping.standings[worker] = standing }
    state.phase = .regrouping(regrouping)
    return isExpected ? regrouped() : nil
  }

  /// Goes on when everybody has said what it holds, and nothing is on its way to the journal.
  mutating func regrouped() -> [CoordinatorDirective] {
    guard case .regrouping(let regrouping) = state.phase, regrouping.pending.isEmpty, state.journaling == nil else {
      return []
    }
    return form(regrouping.standings)
  }

  /// Workers that are alike on one host compete while they measure, one more than the other by chance: they
  /// count as equally fast, at the mean of what they measured.
  static func speeds(of workers: [Hello]) -> [Double] {
    struct Kind: Hashable {
      var host: String
      var threads: UInt32
      var device: String
      init(_ hello: Hello) { (host, threads, device) = (hello.host, hello.threads, hello.deviceFingerprint) }
    }
    var measured: [Kind: (sum: Double, count: Double)] = [:]
    for worker in workers {
      let before = measured[Kind(worker)] ?? (0, 0)
      measured[Kind(worker)] = (before.sum + worker.gigaflopsPerSecond, before.count + 1)
    }
    return workers.map { worker in
      measured[Kind(worker)].map { $0.sum / $0.count } ?? worker.gigaflopsPerSecond
    }
  }

  /// The plan for all members that stay.
  /// - Parameter last: for a last step and checkpoint, with those who want to go.
  func decidePlan(last: Bool = false) -> Result<PlanDecision, PlanError> {
    let members = state.membership.sorted.filter {
      (last || state.leavers[$0.worker] == nil) && !state.expelled.contains($0.worker)
    }
    let capacities = zip(members, Self.speeds(of: members.map(\.hello))).map { member, speed in
      WorkerCapacity(
        worker: member.worker, gigaflopsPerSecond: speed,
        memoryLimitBytes: member.hello.memoryLimitBytes == 0 ? .max : member.hello.memoryLimitBytes)
    }
    return Result { () throws(PlanError) in
      try Planner.plan(
        units: settings.units, workers: capacities, stages: settings.stages, shape: settings.shape,
        schedule: settings.schedule, memory: settings.memory)
    }
  }

  /// The plan with the leaves as the replicas' paces ask for, when they are the same replicas.
  private func shared(_ decision: PlanDecision) -> PlanDecision {
    guard let leaves = state.sharedLeaves, leaves.count == decision.plan.replicaCount, let old = state.plan,
      decision.plan.places == old.places,
      decision.plan.stageUnits == old.stageUnits
    else { return decision }
    var decision = decision
    decision.plan.replicaLeaves = leaves
    decision.reasons.append("leaves \(leaves.map(\.count)): as the replicas have shown to be fast")
    return decision
  }

  /// Everybody has answered: plan, record, announce.
  private mutating func form(_ standings: [WorkerID: Standing]) -> [CoordinatorDirective] {
    let decision: PlanDecision
    var drained: [CoordinatorDirective] = []
    switch decidePlan() {
    case .success(let found): decision = shared(found.rotated(by: state.rotation))
    case .failure(let error):
      // With those who want to go, the others can still save what all of them hold.
      guard !state.leavers.isEmpty else { return reassemble("\(error)") }
      let found: PlanDecision
      switch decidePlan(last: true) {
      case .success(let last): found = last
      case .failure(let error): return reassemble("\(error)")
      }
      drained = drain("\(state.leavers.keys.sorted().map { text(ofLeaver: $0) }.joined(separator: "; "))")
      guard case .regrouping = state.phase else { return drained }
      decision = shared(found.rotated(by: state.rotation))
    }
    let recovery = StateRecovery(
      standings: standings, tensorCount: settings.tensorCount, newest: state.rewindTo ?? state.committed,
      norm: state.norm, expelled: state.expelled, checksCoverage: !settings.planted.contains(.skipCoverage),
      checksAttempt: !settings.planted.contains(.anySums))
    let choice = recovery.choose(checkpoint: state.rewindTo ?? state.checkpoints.newest)
    // What was measured of other replicas says nothing about these.
    if state.sharedLeaves != decision.plan.replicaLeaves { state.sharedLeaves = nil }
    state.plan = decision.plan
    state.paces = WorkerPaces()
    state.plannedSeconds = decision.stepSeconds
    state.consideredMembers = state.membership.workers
    for (replica, row) in decision.plan.places.enumerated() {
      for (stage, worker) in row.enumerated() { state.places[worker] = Place(replica: replica, stage: stage) }
    }
    state.step = choice.step
    state.phase = .preparing(ready: [])
    state.membership.restartProgress(now: state.now)
    let peers = state.membership.sorted.filter { state.participants.contains($0.worker) }
      .map { Peer(worker: $0.worker, dataEndpoint: $0.hello.dataEndpoint, publicKey: $0.connection.publicKey) }
    let record = PlanRecord(
      generation: state.generation, fromStep: state.step, plan: decision.plan, reasons: decision.reasons,
      deviceFingerprint: state.membership.sorted.first?.hello.deviceFingerprint ?? "")
    let source =
      switch choice.origin {
      case .seed: "made from the seed"
      case .checkpoint: "from its checkpoint"
      case .members(let holders): "from \(holders.count) of the workers"
      }
    let again = state.committed - state.step
    let replay = again == 0 ? "" : "; \(again) committed \(again == 1 ? "step is" : "steps are") computed again"
    return drained + [.persistPlan(record)]
      + decision.reasons.map { .log(.info, "plan: \($0)") }
      + [.log(.info, "beginning with the state of step \(state.step), \(source)\(replay)")]
      + order(
        .prepare(
          Prepare(
            plan: decision.plan, peers: peers, fromStep: state.step, origin: choice.origin,
            norm: choice.norm, skipped: state.skips.ranges)),
        of: state.participants.sorted())
  }

  mutating func receive(_ ready: Ready, from worker: WorkerID) -> [CoordinatorDirective]? {
    guard ready.step == state.step, state.participants.contains(worker), var done = takeReady() else { return nil }
    let isNew = done.insert(worker).inserted
    let count = done.count
    state.phase = .preparing(ready: done)
    guard isNew else { return nil }
    guard ready.dataFingerprint == settings.dataFingerprint else {
      return stop(
        .data,
        "\(name(worker)) has data of fingerprint \(ready.dataFingerprint), the coordinator of "
          + "\(settings.dataFingerprint): all hosts must read the same prepared data")
    }
    state.membership.setMemory(ready.memoryBytes, of: worker)
    guard count == state.participants.count else { return [] }
    state.rewindTo = nil
    let workers = placed.count
    return [.log(.info, "ready at step \(state.step): \(workers) \(workers == 1 ? "worker" : "workers")")]
      + releaseLeavers() + releaseExpelled() + nextAtBoundary()
  }

  /// Others hold what they held: they may go.
  private mutating func releaseLeavers() -> [CoordinatorDirective] {
    var directives: [CoordinatorDirective] = []
    for (worker, reason) in state.leavers.sorted(by: { $0.key < $1.key }) where state.places[worker] == nil {
      directives += release(worker, reason)
    }
    return directives
  }

  /// Others hold what they held: they may go, and are not let in again.
  private mutating func releaseExpelled() -> [CoordinatorDirective] {
    var directives: [CoordinatorDirective] = []
    for worker in state.expelled.sorted() where state.membership[worker] != nil && state.places[worker] == nil {
      let reason = "expelled: this machine computes wrongly"
      let key = state.membership[worker]?.connection.publicKey ?? []
      state.membership.ban(worker)
      directives += send(.stop(Stop(disposition: .failed, reason: reason)), to: worker)
      directives.append(.log(.error, "\(name(worker)) \(reason)"))
      if !key.isEmpty { directives.append(.revokeKey(key)) }
      remove(worker)
    }
    return directives
  }

  mutating func release(_ worker: WorkerID, _ reason: String) -> [CoordinatorDirective] {
    let directives =
      send(.stop(Stop(disposition: .requeue, reason: reason)), to: worker)
      + [.log(.info, "\(name(worker)) left: \(reason)")]
    remove(worker)
    return directives
  }

  mutating func remove(_ worker: WorkerID) {
    state.membership.remove(worker)
    state.participants.remove(worker)
    state.leavers[worker] = nil
    state.plan?.spares.removeAll { $0 == worker }
  }

  // MARK: At a boundary

  private var placedLeaver: WorkerID? { state.leavers.keys.filter { state.places[$0] != nil }.min() }
  private func text(ofLeaver worker: WorkerID) -> String { "\(name(worker)) leaves: \(state.leavers[worker] ?? "")" }

  /// A member wants to go, and whoever was to follow it has been lost since.
  func reasonToDrain() -> String? {
    guard let leaver = placedLeaver, case .failure = decidePlan() else { return nil }
    return text(ofLeaver: leaver)
  }

  /// Why the plan should be another one now: a member wants to go, or one that has come makes the step shorter.
  mutating func reasonToRegroup() -> String? {
    if let leaver = placedLeaver {
      guard case .success = decidePlan() else { return nil }
      return text(ofLeaver: leaver)
    }
    if let worker = state.expelled.filter({ state.places[$0] != nil }).min(), case .success = decidePlan() {
      return "\(name(worker)) computes wrongly"
    }
    let members = state.membership.workers
    guard members != state.consideredMembers else { return reasonToShift() }
    state.consideredMembers = members
    guard case .success(let decision) = decidePlan() else { return nil }
    guard decision.stepSeconds < state.plannedSeconds * (1 - settings.limits.leastGain) else { return nil }
    let new = decision.plan.places.flatMap { $0 }.filter { !state.participants.contains($0) }
    guard !new.isEmpty else { return nil }
    return "\(new.map(\.description).joined(separator: ", ")) joined"
  }
}
