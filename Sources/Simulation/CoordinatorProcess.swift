import ClusterModel
import ControlPlane
import Wire

/// A coordinator that was started: its machine, and what its shell knows.
final class CoordinatorProcess {
  let index: Int
  let host: Int
  /// Nil until the run directory is open.
  var machine: CoordinatorMachine?
  var isAlive = true
  var isPaused = false
  /// Events of the time in which it was paused.
  var deferred: [SimulatedCluster.Event] = []
  /// What the machine decided and the shell has not done yet.
  var directives: [CoordinatorDirective] = []
  var nextDirective = 0
  /// Events that directives brought about: handled before anything new.
  var pending: [CoordinatorEvent] = []
  var inbox: [(event: CoordinatorEvent, connection: Connection?)] = []
  var nextInbox = 0
  /// The journal is at it.
  var transaction: SimulatedJournal.Transaction?
  var isTickDue = false
  var ticks = 0
  var peers: Set<Connection> = []
  var commits: [CheckpointRequest] = []
  var outcome: Outcome?
  var clockPercent: UInt64 = 100
  /// Whether the supervisor starts another one after it.
  var isSupervised = true

  init(index: Int, host: Int) {
    self.index = index
    self.host = host
  }
  var name: String { "coordinator \(index)" }
}

extension SimulatedCluster {
  static let tickMicroseconds: UInt64 = 100_000
  static let fingerprintOfData = "data"

  // MARK: Life

  func startCoordinator(on host: Int, insists: Bool) {
    guard !isDone else { return }
    let retry = now + VirtualTime.second
    guard lockHolder == nil else {
      note("a coordinator on host \(host) is refused: the run directory is locked")
      let holder = coordinators[lockHolder ?? 0]
      // One that lives goes on; one that is stopping makes room.
      if insists, holder.outcome != nil { queue.push(.startCoordinator(host: host, insists: true), at: retry) }
      return
    }
    guard !disk.isOff else {
      if insists { queue.push(.startCoordinator(host: host, insists: true), at: retry) }
      return
    }
    let coordinator = CoordinatorProcess(index: coordinators.count, host: host)
    coordinators.append(coordinator)
    lockHolder = coordinator.index
    note("\(coordinator.name) starts on host \(host)")
    queue.push(.coordinatorOpens(coordinator.index), at: now + random.number(5_000, 60_000))
  }

  /// Mirrors `RunOpening`.
  func open(_ coordinator: CoordinatorProcess) {
    let count = scenario.model.tensorCount
    let isTrusting = scenario.planted.contains(.trustFiles)
    let committed = Step(journal.contents.steps.count)
    let newest = store.open(count: count, record: committed, trusting: isTrusting)
    if let newest {
      check(
        store.load(newest, count: count, trusting: isTrusting), is: newest,
        "the checkpoint that \(coordinator.name) opens")
    }
    let outcome = perform(.begin, for: coordinator)
    guard case .began(let generation) = outcome else {
      note("\(coordinator.name) cannot begin: \(outcome)")
      exit(coordinator)
      return
    }
    began(generation, by: coordinator)
    let contents = journal.contents
    var start = CoordinatorStart(
      generation: generation, fromStep: newest ?? 0, committed: committed,
      norm: contents.steps.last.map(CommittedNorm.init), lastCheckpoint: newest, nextWorker: contents.newestWorker + 1,
      evaluated: Set(contents.evaluations.map(\.step)), deviceFingerprint: contents.device)
    start.lastPlaced = contents.placed
    if !scenario.planted.contains(.forgetExpelled) { start.expelled = contents.expelled }
    do { start.skips = try SkippedSamples(contents.skips, perStep: UInt64(scenario.model.shape.microbatches)) } catch {
      return fail("\(coordinator.name) finds skipped samples that cannot be: \(error)")
    }
    if newest == nil, committed == 0 { start.deviceFingerprint = nil }
    note(
      "\(coordinator.name) opens the run: \(generation), \(committed) steps committed, checkpoint \(newest.map { "\($0)" } ?? "none")"
    )
    coordinator.machine = CoordinatorMachine(settings: machineSettings, start: start)
    coordinator.directives = coordinator.machine?.start() ?? []
    listener = coordinator.index
    queue.push(.coordinatorTick(coordinator.index), at: now + Self.tickMicroseconds)
    for worker in workers where worker.isAlive {
      scheduleConnect(worker, isSlow: coordinators.contains { $0 !== coordinator && $0.isAlive })
    }
    pump(coordinator)
  }

  var machineSettings: CoordinatorMachineSettings {
    let model = scenario.model
    let perStep = UInt64(model.shape.microbatches)
    var settings = CoordinatorMachineSettings(
      run: RunID("0123456789abcdef"), runDirectory: "/run", configuration: "stand-in",
      expectedWorkers: scenario.expectedWorkers,
      stages: scenario.stages, schedule: .oneForwardOneBackward, shape: model.shape, units: scenario.units,
      memory: scenario.memory, tensorCount: model.tensorCount, totalSteps: scenario.steps, samplesPerStep: perStep,
      tokensPerStep: perStep, dataFingerprint: Self.fingerprintOfData, checkpointEvery: scenario.checkpointEvery,
      validationEvery: scenario.validationEvery, validationMicrobatches: scenario.validationMicrobatches,
      learningRate: { 1 / Double($0 + 1) },
      denominators: { model.denominators($0) })
    settings.copyEvery = scenario.copyEvery
    settings.planted = scenario.planted
    settings.limits.stuckTicks = 60
    settings.limits.fruitlessGenerations = 200
    return settings
  }

  /// The process is gone: by itself, or killed.
  func exit(_ coordinator: CoordinatorProcess) {
    guard coordinator.isAlive else { return }
    coordinator.isAlive = false
    coordinator.deferred = []
    if lockHolder == coordinator.index { lockHolder = nil }
    if listener == coordinator.index { listener = nil }
    note("\(coordinator.name) is gone\(coordinator.outcome.map { ": \($0)" } ?? "")")
    for worker in workers where worker.isAlive && worker.coordinator == coordinator.index { worker.coordinator = nil }
    // Once everything is repaired, somebody starts one whoever went.
    guard coordinator.isSupervised || isHealed, !isDone else { return }
    // A transaction under way at a kill may have reached the disk or not; either is decided when it happens.
    let isFaultless = coordinator.outcome?.kind == .superseded && coordinators.contains { $0.isAlive }
    if !isFaultless {
      queue.push(
        .startCoordinator(host: scenario.coordinatorHost(random.below(2)), insists: true),
        at: now + random.number(300_000, 2_000_000))
    }
  }

  func kill(_ coordinator: CoordinatorProcess) {
    guard coordinator.isAlive else { return }
    // What the system had taken reaches the disk without the process.
    if let transaction = coordinator.transaction, random.chance(0.5), !coordinator.isPaused {
      _ = perform(transaction, for: coordinator)
    }
    coordinator.isSupervised = false
    exit(coordinator)
  }

  func tick(_ coordinator: CoordinatorProcess) {
    coordinator.isTickDue = true
    pump(coordinator)
  }

  // MARK: The loop

  func arrive(_ envelope: Envelope, of connection: Connection, at index: Int, _ event: Event) {
    let coordinator = coordinators[index]
    guard coordinator.isAlive else {
      // What waited in the worker's socket goes to whoever is at the address now.
      guard let listener, listener != index, random.chance(0.3) else { return }
      arrive(envelope, of: connection, at: listener, event)
      return
    }
    stamp(3, index)
    guard !coordinator.isPaused else {
      coordinator.deferred.append(.toCoordinator(index, envelope, connection))
      return
    }
    var envelope = envelope
    if scenario.planted.contains(.skipGate), case .worker = envelope.sender, let machine = coordinator.machine {
      envelope.generation = machine.state.generation
      if envelope.order != 0 { envelope.order = machine.newestOrder }
    }
    coordinator.inbox.append((.message(envelope, from: connection), connection))
    pump(coordinator)
  }

  /// Mirrors `CoordinatorLoop.run`: what a directive brought about, then messages, then a tick.
  func pump(_ coordinator: CoordinatorProcess) {
    guard coordinator.isAlive, !coordinator.isPaused, coordinator.machine != nil else { return }
    while coordinator.transaction == nil, coordinator.isAlive, monitor.violation == nil, !isDone {
      if coordinator.nextDirective < coordinator.directives.count {
        let directive = coordinator.directives[coordinator.nextDirective]
        coordinator.nextDirective += 1
        obey(directive, coordinator)
        continue
      }
      guard coordinator.outcome == nil else { return }
      if !coordinator.pending.isEmpty {
        feed(coordinator.pending.removeFirst(), to: coordinator)
      } else if coordinator.nextInbox < coordinator.inbox.count {
        let (event, connection) = coordinator.inbox[coordinator.nextInbox]
        coordinator.nextInbox += 1
        if coordinator.nextInbox == coordinator.inbox.count {
          coordinator.inbox.removeAll(keepingCapacity: true)
          coordinator.nextInbox = 0
        }
        if let connection { coordinator.peers.insert(connection) }
        feed(event, to: coordinator)
      } else if coordinator.isTickDue {
        coordinator.isTickDue = false
        queue.push(
          .coordinatorTick(coordinator.index), at: now + Self.tickMicroseconds * 100 / coordinator.clockPercent)
        feed(.tick, to: coordinator)
        coordinator.ticks += 1
        checkFence(coordinator)
      } else {
        return
      }
    }
  }

  private func isNewest(_ coordinator: CoordinatorProcess) -> Bool {
    journal.contents.newestGeneration <= coordinator.machine?.state.generation ?? Generation(0)
  }

  /// Mirrors `CoordinatorLoop.checkFence`: once a second.
  private func checkFence(_ coordinator: CoordinatorProcess) {
    guard coordinator.ticks.isMultiple(of: 10), !scenario.planted.contains(.skipFence),
      let generation = coordinator.machine?.state.generation, journal.contents.newestGeneration > generation
    else { return }
    coordinator.pending.append(.superseded(reason: "the journal has \(journal.contents.newestGeneration)"))
  }

  private func feed(_ event: CoordinatorEvent, to coordinator: CoordinatorProcess) {
    coordinator.nextDirective = 0
    coordinator.directives = coordinator.machine?.handle(event) ?? []
    checkWaiting(coordinator)
    guard trace != nil else { return }
    if case .tick = event { return }
    if case .message(let envelope, _) = event, case .heartbeat = envelope.message { return }
    note("\(coordinator.name) <- \(SimulationText.event(event))")
  }

  private func obey(_ directive: CoordinatorDirective, _ coordinator: CoordinatorProcess) {
    switch directive {
    case .persistWorker(let record): begin(.worker(record), for: coordinator)
    case .persistGeneration(let generation, let previous, let reason):
      ends(previous, reason)
      begin(.generation(generation, after: previous), for: coordinator)
    case .persistPlan(let record): begin(.plan(record), for: coordinator)
    case .commitStep(let record):
      if scenario.planted.contains(.updateEarly) || scenario.planted.contains(.commitBeforeFlush) {
        coordinator.pending.append(.stepJournaled(record.step))
        let late: UInt64 = scenario.planted.contains(.updateEarly) ? 30_000 : 0
        queue.push(.lateFlush(coordinator.index, .step(record)), at: now + scenario.flushTime + late)
      } else {
        begin(.step(record), for: coordinator)
      }
    case .recordSkip(let record): begin(.skip(record), for: coordinator)
    case .recordExpulsion(let record): begin(.expulsion(record), for: coordinator)
    case .recordEvaluation(let record): begin(.evaluation(record), for: coordinator)
    case .send(let envelope, let connections):
      for connection in connections { send(envelope, to: connection, from: coordinator) }
    case .commitCheckpoint(let request):
      coordinator.commits.append(request)
      if coordinator.commits.count == 1 { scheduleManifest(coordinator) }
    case .discardCheckpoint(let step):
      // Files may be those of whoever has taken over.
      guard isNewest(coordinator) else { return }
      note("\(coordinator.name) discards what is not committed, step \(step)")
      store.removeUncommitted()
    case .applyRetention where isNewest(coordinator):
      store.retain(last: scenario.keepLast, count: scenario.model.tensorCount)
    case .log(let level, let text):
      if level != .debug { note("\(coordinator.name): \(text)") }
    case .finish(let outcome): finish(outcome, coordinator)
    default: break
    }
  }

  // MARK: The journal

  private func begin(_ transaction: SimulatedJournal.Transaction, for coordinator: CoordinatorProcess) {
    coordinator.transaction = transaction
    let time = scenario.flushTime / 2 + random.number(0, scenario.flushTime)
    queue.push(.journalDone(coordinator.index), at: now + time * disk.slowness)
  }

  func perform(_ transaction: SimulatedJournal.Transaction, for coordinator: CoordinatorProcess)
    -> SimulatedJournal.Outcome
  {
    let outcome = journal.perform(
      transaction, isFull: disk.full > 0 || disk.isOff, isLying: disk.lying > 0, planted: scenario.planted)
    if disk.lying == 0 { store.flush() }
    note("\(coordinator.name): the journal says \(outcome) to \(SimulationText.transaction(transaction))")
    guard outcome == .done else { return outcome }
    switch transaction {
    case .step(let record): committed(record, by: coordinator)
    case .generation(let generation, _): began(generation, by: coordinator)
    case .worker(let record): numbered(record, by: coordinator)
    case .evaluation(let record): evaluated(record)
    case .skip(let record): skipped(record)
    case .plan(let record): planned(record)
    case .begin, .expulsion: break
    }
    return outcome
  }

  func finishTransaction(_ coordinator: CoordinatorProcess) {
    guard let transaction = coordinator.transaction else { return }
    let outcome = perform(transaction, for: coordinator)
    coordinator.transaction = nil
    switch outcome {
    case .done, .began:
      if case .step(let record) = transaction { coordinator.pending.append(.stepJournaled(record.step)) }
    case .fenced(let newer):
      refuse(coordinator, .superseded(reason: "the journal has \(newer)"))
    case .differs(let reason):
      if case .step(let record) = transaction {
        refuse(coordinator, .stepNotReproduced(record.step, reason: reason))
      }
    case .noSpace: refuse(coordinator, .journalFailed(reason: "no space is left"))
    }
    pump(coordinator)
  }

  /// What was to follow the write does not happen.
  private func refuse(_ coordinator: CoordinatorProcess, _ event: CoordinatorEvent) {
    coordinator.directives = coordinator.directives[coordinator.nextDirective...].filter {
      if case .finish = $0 { true } else { false }
    }
    coordinator.nextDirective = 0
    coordinator.pending.insert(event, at: 0)
  }

  // MARK: Manifests

  private func scheduleManifest(_ coordinator: CoordinatorProcess) {
    let time = scenario.partTime / 4 + random.number(0, scenario.partTime)
    queue.push(.manifestDone(coordinator.index), at: now + time * disk.slowness)
  }

  func finishManifest(_ coordinator: CoordinatorProcess) {
    guard let request = coordinator.commits.first else { return }
    coordinator.commits.removeFirst()
    if !isNewest(coordinator), !scenario.planted.contains(.skipFence) {
      note("\(coordinator.name): the manifest of step \(request.step) is not its to write any more")
      coordinator.inbox.append((.superseded(reason: "the journal has \(journal.contents.newestGeneration)"), nil))
      return pump(coordinator)
    }
    let failure: String? =
      disk.full > 0 || disk.isOff ? "no space is left" : store.commit(request, isFlushed: disk.lying == 0)
    if let failure {
      note("\(coordinator.name): the manifest of step \(request.step) fails: \(failure)")
      coordinator.inbox.append((.checkpointCommitFailed(request.step, reason: failure), nil))
    } else {
      note("\(coordinator.name): the manifest of step \(request.step) is in place")
      manifested(request)
      journal.note(checkpoint: request.step)
      coordinator.inbox.append((.checkpointCommitted(request.step), nil))
    }
    if !coordinator.commits.isEmpty { scheduleManifest(coordinator) }
    pump(coordinator)
  }

  // MARK: The end

  private func finish(_ outcome: Outcome, _ coordinator: CoordinatorProcess) {
    coordinator.outcome = outcome
    note("\(coordinator.name) finishes: \(outcome.kind.rawValue), \(outcome)")
    ended(outcome, coordinator)
    sayFarewell(coordinator, left: 4)
  }

  /// Mirrors `CoordinatorLoop.farewell`.
  func sayFarewell(_ coordinator: CoordinatorProcess, left: Int) {
    guard coordinator.isAlive, !isDone, let machine = coordinator.machine else { return }
    guard left > 0, let stop = machine.farewell else { return exit(coordinator) }
    for member in machine.state.membership.sorted { send(stop, to: member.connection, from: coordinator) }
    queue.push(.farewell(coordinator.index, left: left - 1), at: now + 300_000)
  }
}
