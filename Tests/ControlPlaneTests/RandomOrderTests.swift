import ClusterModel
import ControlPlane
import Testing
import Wire

/// SplitMix64 (Steele et al. 2014).
private struct SplitMix: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// Honest workers behind a network that delays, reorders and duplicates, and a coordinator shell whose disk is
/// slow; optionally stops, losses and failing checkpoints.
private struct RandomRun {
  var random: SplitMix
  var machine: CoordinatorMachine
  let workers: Int
  let hasFaults: Bool
  var pending: [CoordinatorEvent] = []
  var delivered: [CoordinatorEvent] = []
  var idOf: [Connection: WorkerID] = [:]
  var updatesSeen: [Step: Set<Connection>] = [:]
  // What the invariants need.
  var journaled: Step
  var awaitingJournal: Step?
  var committing: Step?
  var reducedBy: [Step: Set<WorkerID>] = [:]
  var outcome: Outcome?
  var faults: [String] = []

  init(seed: UInt64, hasFaults: Bool) {
    random = SplitMix(state: seed)
    self.hasFaults = hasFaults
    workers = Int.random(in: 1...4, using: &random)
    var settings = CoordinatorMachineSettings(
      run: RunID("run"), runDirectory: "/run", configuration: "", expectedWorkers: workers,
      stages: Int.random(in: 1...2, using: &random), schedule: .gpipe, shape: StepShape(microbatches: 4, leaves: 2),
      units: someUnits(layers: 2), memory: MemoryModel(), tensorCount: 3, totalSteps: 6, samplesPerStep: 1,
      tokensPerStep: 1, dataFingerprint: "data", checkpointEvery: Step(Int.random(in: 0...3, using: &random)),
      validationEvery: 2, validationMicrobatches: 2, learningRate: { _ in 1 },
      denominators: { _ in StepDenominators(targetTokens: 4, images: 0) })
    settings.limits.deadTicks = 1_000_000
    settings.limits.stuckTicks = 1_000_000
    machine = CoordinatorMachine(settings: settings, start: CoordinatorStart(generation: Generation(3)))
    journaled = 0
  }

  mutating func run() {
    obey(machine.start())
    for number in 0..<workers {
      let connection = Connection("\(number)")
      let hello = Hello(
        worker: nil, host: "h\(number)", processID: 1, threads: 1, memoryLimitBytes: 0, deviceFingerprint: "cpu",
        gigaflopsPerSecond: 1, dataEndpoint: "\(number)")
      enqueue(.message(envelope(.hello(hello), as: .candidate, generation: 0, run: ""), from: connection))
    }
    for _ in 0..<5_000 {
      if outcome != nil { break }
      guard !pending.isEmpty else {
        // A worker that was lost before the plan is waited for.
        if hasFaults, machine.phaseName == "assembling" { return }
        faults.append("nothing is under way, but the run has not ended: \(machine.phaseName)")
        return
      }
      let index = Int.random(in: 0..<pending.count, using: &random)
      let event = pending.remove(at: index)
      delivered.append(event)
      deliver(event)
      disturb()
    }
    if outcome == nil { faults.append("the run does not end") }
    // After the end nothing is obeyed.
    let state = machine.state
    for event in delivered where !machine.handle(event).isEmpty { faults.append("a directive after the end") }
    if machine.state != state { faults.append("state changed after the end") }
  }

  private mutating func disturb() {
    // Repetitions of anything said before, and the same under an older generation.
    if Int.random(in: 0..<4, using: &random) == 0, let old = delivered.randomElement(using: &random) {
      if case .message(var envelope, let connection) = old {
        if Bool.random(using: &random) {
          envelope.generation = Generation(2)
          let state = machine.state
          let directives = machine.handle(.message(envelope, from: connection))
          if case .hello = envelope.message {
            obey(directives)
          } else if machine.state != state {
            faults.append("a stale message changed the state")
          }
        } else {
          deliver(old)
        }
      }
    }
    if Int.random(in: 0..<6, using: &random) == 0 { obey(machine.handle(.tick)) }
    guard hasFaults, Int.random(in: 0..<40, using: &random) == 0 else { return }
    switch Int.random(in: 0..<3, using: &random) {
    case 0: obey(machine.handle(.stopRequested(reason: "asked")))
    case 1: obey(machine.handle(.connectionRefused(Connection("\(Int.random(in: 0..<4, using: &random))"))))
    default:
      if let step = committing {
        committing = nil
        pending.removeAll { $0 == .checkpointCommitted(step) }
        obey(machine.handle(.checkpointCommitFailed(step, reason: "disk")))
      }
    }
  }

  private mutating func deliver(_ event: CoordinatorEvent) {
    switch event {
    case .message(let envelope, _):
      if case .reduced(let report) = envelope.message, case .worker(let worker) = envelope.sender {
        reducedBy[report.step, default: []].insert(worker)
      }
    case .stepJournaled(let step):
      if awaitingJournal == step {
        journaled = step + 1
        awaitingJournal = nil
      }
    case .checkpointCommitted(let step): if committing == step { committing = nil }
    default: break
    }
    obey(machine.handle(event))
  }

  private mutating func enqueue(_ event: CoordinatorEvent) { pending.append(event) }

  private func envelope(
    _ message: ControlMessage, as sender: Envelope.Sender, generation: UInt64 = 3, run: String = "run"
  )
    -> Envelope
  {
    Envelope(run: RunID(run), generation: Generation(generation), sender: sender, message: message)
  }

  private mutating func obey(_ directives: [CoordinatorDirective]) {
    if outcome != nil, !directives.isEmpty { faults.append("a directive after the end") }
    for directive in directives {
      switch directive {
      case .commitStep(let record):
        if record.step != journaled || awaitingJournal != nil { faults.append("step \(record.step) out of order") }
        if record.languageModelLoss != 1.75 { faults.append("loss \(record.languageModelLoss ?? -1)") }
        awaitingJournal = record.step
        enqueue(.stepJournaled(record.step))
      case .commitCheckpoint(let request):
        if request.step > journaled { faults.append("manifest \(request.step) before its step") }
        if committing != nil { faults.append("two checkpoints in flight") }
        committing = request.step
        enqueue(.checkpointCommitted(request.step))
      case .finish(let outcome): self.outcome = outcome
      case .send(let envelope, let connection): answer(envelope, at: connection)
      default: break
      }
    }
  }

  /// What an honest worker answers at once; the network delays it.
  private mutating func answer(_ received: Envelope, at connection: Connection) {
    if received.generation != Generation(3) { faults.append("sent \(received.generation)") }
    if case .welcome(let welcome) = received.message { idOf[connection] = welcome.worker }
    guard let worker = idOf[connection], let plan = machine.state.plan, let place = plan.place(of: worker) else {
      return
    }
    let isLast = place.stage == plan.stageCount - 1
    func losses(_ range: Range<Int>) -> [MicrobatchLoss] {
      range.map {
        MicrobatchLoss(
          microbatch: UInt32($0), languageModelSum: 1 + Double($0) / 2, targetTokens: 1, diffusionSum: 0, images: 0)
      }
    }
    func say(_ message: ControlMessage) {
      enqueue(.message(envelope(message, as: .worker(worker)), from: connection))
    }
    let rank = place.replica * plan.stageCount + place.stage
    switch received.message {
    case .prepare(let prepare): say(.ready(Ready(step: prepare.fromStep, dataFingerprint: "data", memoryBytes: 1)))
    case .runStep(let step):
      if step != journaled { faults.append("step \(step) begun before \(step) steps were journaled") }
      let range = machine.settings.shape.microbatches(ofLeaves: plan.replicaLeaves[place.replica])
      let norms = (0..<3).filter { $0 % (plan.replicaCount * plan.stageCount) == rank }
      say(
        .reduced(
          Reduced(
            step: step, losses: isLast ? losses(range) : [],
            norms: norms.map { TensorNorm(tensor: UInt32($0), sumOfSquares: 1) })))
    case .update(let update):
      let all = Set(plan.places.flatMap { $0 })
      if reducedBy[update.step] != all { faults.append("update \(update.step) before all had reduced") }
      if !updatesSeen[update.step, default: []].insert(connection).inserted {
        faults.append("update \(update.step) sent twice")
      }
      say(.updated(Updated(step: update.step, phases: PhaseSeconds(), memoryBytes: 1)))
      if update.checkpoint {
        let tensor = CheckpointPart.Tensor(path: "/\(worker.number)", shape: [1], sha256: "")
        say(
          .checkpointWritten(
            CheckpointPart(
              step: update.step + 1, file: "\(worker.number)", sizeBytes: 1, sha256: "", tensors: [tensor])))
      }
    case .evaluate(let step):
      say(.evaluated(Evaluated(step: step, losses: isLast && place.replica == 0 ? losses(0..<2) : [])))
    default: break
    }
  }
}

@Suite("Any order of events") struct RandomOrderTests {
  @Test("without faults every order ends with all steps committed and the last state saved")
  func withoutFaults() {
    for seed in 0..<300 as Range<UInt64> {
      var run = RandomRun(seed: seed, hasFaults: false)
      run.run()
      #expect(run.faults.isEmpty, "seed \(seed): \(run.faults.prefix(3))")
      #expect(run.outcome?.kind == .done && run.outcome?.step == 6 && run.outcome?.lastCheckpoint == 6, "seed \(seed)")
    }
  }

  @Test("with stops, losses and failing checkpoints every order ends and keeps the invariants")
  func withFaults() {
    var kinds: Set<Outcome.Kind> = []
    for seed in 1000..<1600 as Range<UInt64> {
      var run = RandomRun(seed: seed, hasFaults: true)
      run.run()
      #expect(run.faults.isEmpty, "seed \(seed): \(run.faults.prefix(3))")
      guard let outcome = run.outcome else { continue }
      kinds.insert(outcome.kind)
      // A drained run lost nothing.
      if outcome.kind == .drained { #expect(outcome.lastCheckpoint ?? 0 == outcome.step, "seed \(seed)") }
    }
    #expect(kinds.isSuperset(of: [.done, .drained, .requeue, .storage]), "\(kinds)")
  }
}
