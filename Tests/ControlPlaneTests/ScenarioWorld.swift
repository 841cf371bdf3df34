import ClusterModel
import ControlPlane
import Wire

/// A coordinator machine with scripted workers: runs the commands of a scenario and prints what it decides.
///
/// Commands (workers are single letters, which are also their connections):
/// `run key=value ...`, `hello a [host=] [gflops=] [device=] [id=] [protocol=] [endpoint=]`, `ready`, `reduced`,
/// `updated`, `evaluated` with `all` or letters, `part`/`partfailed` likewise with `step=`, `heartbeat a progress=
/// phase=`, `leaving a`, `failed a [kind=]`, `refuse a`, `tick n`, `stop`, `journaled s`, `notreproduced s`,
/// `journalfailed`, `superseded`, `committed s`, `commitfailed s`, `status o`, `step`, `state`. Reports take `step=`,
/// `gen=`, `run=`, `as=` (claimed worker number), `order=`, `loss=`, `norm=`, `skip=`, `twice=`, `tokens=`, `data=`,
/// `seconds=` (of the backward passes).
///
/// `standing a [live=] [parameters=0-4] [moments=0-4] [sums=yes] [copy=] [copied-parameters=] [copied-moments=] [since=]` says what a worker holds; before `ready`,
/// members that were asked and have not answered say that they hold nothing. Before `updated`, a step that is on its
/// way to the journal is reported as written, unless `journaled` did.
struct ScenarioWorld {
  static let tensors = 4
  private(set) var machine: CoordinatorMachine?
  /// In which the newest step was committed: its sums are of then.
  private var committedIn = Generation(0)
  private var workerAt: [String: WorkerID] = [:]
  private var unjournaled: Step?
  private var lastOrder: UInt64 = 0
  private var output: [String] = []

  mutating func perform(_ line: String) -> String {
    output = []
    var words = line.split(separator: " ").map(String.init)
    let command = words.removeFirst()
    let options = Dictionary(
      words.filter { $0.contains("=") }.map { word in
        let parts = word.split(separator: "=", maxSplits: 1)
        return (String(parts[0]), parts.count > 1 ? String(parts[1]) : "")
      }, uniquingKeysWith: { $1 })
    let names = words.filter { !$0.contains("=") }
    switch command {
    case "run": begin(options)
    case "tick": for _ in 0..<(Int(names.first ?? "1") ?? 1) { feed(.tick) }
    case "stop": feed(.stopRequested(reason: "SIGTERM"))
    case "journaled": journaled(number(names))
    case "superseded": feed(.superseded(reason: "another coordinator has taken over"))
    case "notreproduced": feed(.stepNotReproduced(number(names), reason: "step \(number(names)) did not reproduce"))
    case "journalfailed": feed(.journalFailed(reason: "journal.sqlite: disk full"))
    case "committed": feed(.checkpointCommitted(number(names)))
    case "commitfailed": feed(.checkpointCommitFailed(number(names), reason: "disk full"))
    case "refuse": feed(.connectionRefused(connection(names[0])))
    case "hello": hello(names[0], options)
    case "status":
      message(.statusRequest, as: .observer, from: names[0], options)
    case "state": describe()
    case "slowest":
      let slowest = machine?.slowest.map { "\($0.worker), \($0.phase), \($0.seconds) s" }
      output.append(slowest ?? "nobody is slowest")
    case "step":
      for kind in ["reduced", "updated"] {
        if kind == "updated" { writeJournal() }
        for name in targets(["all"]) { report(kind, name, options) }
      }
    case "ready":
      if case .regrouping(let regrouping) = machine?.state.phase {
        for worker in regrouping.pending.sorted() {
          if let name = workerAt.first(where: { $0.value == worker })?.key { report("standing", name, [:]) }
        }
      }
      for name in names == ["all"] ? everybody : names { report("ready", name, options) }
    case "standing": for name in names == ["all"] ? everybody : names { report("standing", name, options) }
    case "updated":
      writeJournal()
      for name in targets(names) { report(command, name, options) }
    default:
      for name in targets(names) { report(command, name, options) }
    }
    return output.joined(separator: "\n")
  }

  private mutating func writeJournal() { if let step = unjournaled { journaled(step) } }
  private mutating func journaled(_ step: Step) {
    // It was written before `updated` already.
    if unjournaled != step, let machine, step < machine.state.committed { return }
    unjournaled = nil
    feed(.stepJournaled(step))
  }

  /// All members, by ID.
  private var everybody: [String] {
    guard let machine else { return [] }
    return workerAt.filter { machine.state.membership[$0.value] != nil }.sorted { $0.value < $1.value }.map(\.key)
  }

  private func number(_ names: [String]) -> Step { names.first.flatMap { Step($0) } ?? 0 }
  private func connection(_ name: String) -> Connection { Connection(name) }

  /// `all` is everybody with a place, in rank order.
  private func targets(_ names: [String]) -> [String] {
    guard names == ["all"] else { return names }
    let placed = machine?.state.plan?.places.flatMap { $0 } ?? []
    return placed.compactMap { worker in workerAt.first { $0.value == worker }?.key }
  }

  private mutating func begin(_ options: [String: String]) {
    func int(_ key: String, _ otherwise: Int) -> Int { options[key].flatMap { Int($0) } ?? otherwise }
    var units = someUnits(layers: 2)
    var memory = MemoryModel()
    if options["units"] == "heavy" {
      // One worker of 4 MB cannot hold them, two can.
      for index in units.indices { (units[index].parameterCount, units[index].activationBytes) = (25_000, 1_000) }
      memory.fixedBytes = 0
    }
    var settings = CoordinatorMachineSettings(
      run: RunID("run"), runDirectory: "/run", configuration: "text", expectedWorkers: int("workers", 2),
      stages: options["stages"].flatMap { Int($0) }, schedule: .oneForwardOneBackward,
      shape: StepShape(microbatches: int("microbatches", 2), leaves: int("leaves", 2)), units: units, memory: memory,
      tensorCount: Self.tensors, totalSteps: Step(int("steps", 3)),
      samplesPerStep: 4, tokensPerStep: 256, dataFingerprint: "data", checkpointEvery: Step(int("checkpoint", 0)),
      validationEvery: Step(int("every", 0)), validationMicrobatches: int("validation", 0),
      learningRate: { _ in 0.5 },
      denominators: { [count = UInt64(int("microbatches", 2))] _ in
        StepDenominators(targetTokens: 10 * count, images: count)
      })
    settings.stopAfter = options["stopafter"].flatMap { Step($0) }
    settings.limits.heartbeatTicks = UInt64(int("beat", 1000))
    settings.limits.deadTicks = UInt64(int("dead", 10))
    settings.limits.stuckTicks = UInt64(int("stuck", 100))
    settings.limits.reminderTicks = 1000
    settings.limits.graceTicks = UInt64(int("grace", 20))
    settings.limits.resendTicks = UInt64(int("resend", 5))
    settings.limits.skippedRanges = int("skips", 8)
    settings.limits.fruitlessGenerations = int("fruitless", 50)
    let from = Step(int("from", 0))
    machine = CoordinatorMachine(
      settings: settings,
      start: CoordinatorStart(
        generation: Generation(UInt64(int("generation", 1))), fromStep: from,
        committed: options["committed"].flatMap { Step($0) },
        norm: options["committed"].flatMap { Step($0) }.map {
          CommittedNorm(step: $0, sumOfSquares: 1, generation: committedIn)
        },
        lastPlaced: Set((options["placed"] ?? "").split(separator: ",").compactMap { UInt32($0) }.map { WorkerID($0) }),
        lastCheckpoint: from > 0 ? from : nil, nextWorker: options["placed"] == nil ? 1 : 10,
        evaluated: Set((options["evaluated"] ?? "").split(separator: ",").compactMap { Step($0) }),
        saved: Set((options["saved"] ?? "").split(separator: ",").compactMap { Step($0) }),
        deviceFingerprint: options["device"]))
    workerAt = [:]
    unjournaled = nil
    show(machine?.start() ?? [])
  }

  private mutating func feed(_ event: CoordinatorEvent) {
    guard let before = machine?.state else { return }
    let directives = machine?.handle(event) ?? []
    for case .commitStep(let record) in directives { (unjournaled, committedIn) = (record.step, record.generation) }
    show(directives)
    let isSilent = directives.allSatisfy { if case .log(.debug, _) = $0 { true } else { false } }
    if isSilent, event != .tick, before == machine?.state { output.append("state unchanged") }
  }

  private mutating func message(
    _ content: ControlMessage, as sender: Envelope.Sender, from name: String, _ options: [String: String]
  ) {
    let generation = options["gen"].flatMap { UInt64($0) } ?? machine?.state.generation.number ?? 0
    let isWorker = if case .worker = sender { true } else { false }
    let envelope = Envelope(
      run: RunID(options["run"] ?? (isWorker ? "run" : "")), generation: Generation(generation), sender: sender,
      order: options["order"].flatMap { UInt64($0) } ?? (isWorker ? order : 0), message: content)
    feed(.message(envelope, from: connection(name)))
  }

  /// The newest order that was sent.
  private var order: UInt64 { lastOrder }

  private mutating func hello(_ name: String, _ options: [String: String]) {
    let hello = Hello(
      protocolVersion: options["protocol"].flatMap { UInt32($0) } ?? Hello.currentProtocol,
      worker: options["id"].flatMap { UInt32($0) }.map { WorkerID($0) }, host: options["host"] ?? "host-\(name)",
      processID: 1, threads: 1, memoryLimitBytes: options["memory"].flatMap { UInt64($0) } ?? 0,
      deviceFingerprint: options["device"] ?? "cpu", gigaflopsPerSecond: Double(options["gflops"] ?? "100") ?? 100,
      dataEndpoint: options["endpoint"] ?? "tcp://\(name)")
    let sender = hello.worker.map { Envelope.Sender.worker($0) } ?? .candidate
    // What it obeyed before this coordinator began, unless `gen=` says otherwise.
    let obeyed = ["gen": "0"].merging(options) { $1 }
    message(.hello(hello), as: options["run"] == nil ? .candidate : sender, from: name, obeyed)
    if let worker = machine?.state.membership.worker(at: connection(name)) { workerAt[name] = worker }
  }

  private mutating func report(_ kind: String, _ name: String, _ options: [String: String]) {
    let worker = options["as"].flatMap { UInt32($0) }.map { WorkerID($0) } ?? workerAt[name] ?? WorkerID(99)
    let step = options["step"].flatMap { Step($0) } ?? machine?.state.step ?? 0
    let content: ControlMessage
    switch kind {
    case "standing": content = .standing(standing(options))
    case "ready":
      content = .ready(Ready(step: step, dataFingerprint: options["data"] ?? "data", memoryBytes: 1))
    case "reduced":
      content = .reduced(
        Reduced(step: step, losses: losses(of: worker, options), norms: norms(of: worker, options)))
    case "updated":
      var phases = PhaseSeconds()
      phases.backward = Double(options["seconds"] ?? "") ?? 0
      content = .updated(Updated(step: step, phases: phases, memoryBytes: 1))
    case "evaluated": content = .evaluated(Evaluated(step: step, losses: losses(of: worker, options)))
    case "part":
      let file = options["file"] ?? "worker-\(worker.number).h5"
      let tensor = CheckpointPart.Tensor(
        path: options["tensor"] ?? "/parameters/\(worker.number)", shape: [1], sha256: "0")
      content = .checkpointWritten(
        CheckpointPart(step: step, file: file, sizeBytes: 1, sha256: "0", tensors: [tensor]))
    case "partfailed": content = .checkpointFailed(step: step, reason: "no space left")
    case "heartbeat":
      content = .heartbeat(
        Heartbeat(
          progress: options["progress"].flatMap { UInt64($0) } ?? 0, step: step, phase: options["phase"] ?? "idle",
          microbatchesPerSecond: 1, memoryBytes: 1,
          order: options["order"].flatMap { UInt64($0) } ?? order))
    case "leaving": content = .leaving(reason: "SIGTERM")
    case "failed": content = .failed(kind: failureKind(options["kind"]), reason: "it broke")
    case "bogus": content = .stop(Stop(disposition: .done, reason: "from a worker"))
    default:
      output.append("unknown command \(kind)")
      return
    }
    message(content, as: options["coordinator"] != nil ? .coordinator : .worker(worker), from: name, options)
  }

  private func standing(_ options: [String: String]) -> Standing {
    func ranges(_ key: String) -> [Range<Int>] {
      (options[key] ?? "0-\(Self.tensors)").split(separator: ",").map { text in
        let ends = text.split(separator: "-").compactMap { Int($0) }
        return ends[0]..<ends[1]
      }
    }
    func held(_ key: String, _ prefix: String = "") -> HeldState? {
      options[key].flatMap { Step($0) }.map {
        HeldState(step: $0, parameters: ranges(prefix + "parameters"), moments: ranges(prefix + "moments"))
      }
    }
    return Standing(
      live: held("live"), hasSums: options["sums"] != nil, copies: held("copy", "copied-").map { [$0] } ?? [],
      generation: options["since"].flatMap { UInt64($0) }.map(Generation.init) ?? committedIn)
  }

  private func failureKind(_ name: String?) -> FailureKind {
    switch name {
    case "data": .data
    case "configuration": .configuration
    case "storage": .storage
    case "software": .software
    default: .peerLost
    }
  }

  /// Last stages report their replica's microbatches: 10 target tokens and one image each.
  private func losses(of worker: WorkerID, _ options: [String: String]) -> [MicrobatchLoss] {
    guard let machine, let plan = machine.state.plan, let place = plan.place(of: worker),
      place.stage == plan.stageCount - 1
    else { return [] }
    let range = machine.settings.shape.microbatches(ofLeaves: plan.replicaLeaves[place.replica])
    var losses = range.map { m in
      MicrobatchLoss(
        microbatch: UInt32(m), languageModelSum: Double(options["loss"] ?? "") ?? 20 + Double(m),
        targetTokens: options["tokens"].flatMap { UInt64($0) } ?? 10, diffusionSum: 0.5, images: 1)
    }
    let bad = options["nan"]?.split(separator: ",").compactMap { UInt32($0) } ?? []
    for index in losses.indices where bad.contains(losses[index].microbatch) { losses[index].languageModelSum = .nan }
    if options["skip"] == "loss" { losses.removeLast() }
    if options["twice"] == "loss", let last = losses.last { losses.append(last) }
    return losses
  }

  /// Tensors are owned round robin by rank.
  private func norms(of worker: WorkerID, _ options: [String: String]) -> [TensorNorm] {
    guard let plan = machine?.state.plan, let rank = plan.rank(of: worker) else { return [] }
    let count = plan.replicaCount * plan.stageCount
    var norms = (0..<Self.tensors).filter { $0 % count == rank }.map {
      TensorNorm(tensor: UInt32($0), sumOfSquares: Double(options["norm"] ?? "") ?? 0.25)
    }
    if options["skip"] == "norm" { norms.removeLast() }
    if options["twice"] == "norm", let last = norms.last { norms.append(last) }
    return norms
  }
}

extension ScenarioWorld {
  private mutating func describe() {
    guard let machine else { return }
    output.append(
      "\(machine.phaseName), step \(machine.state.step), newest checkpoint "
        + (machine.state.checkpoints.newest.map(String.init) ?? "none"))
    for view in machine.workerViews {
      let rank = view.rank.map { "rank \($0) replica \(view.replica ?? -1) stage \(view.stage ?? -1)" } ?? "no rank"
      output.append("\(view.worker): \(rank), \(view.state)")
    }
  }

  private mutating func show(_ directives: [CoordinatorDirective]) {
    for directive in directives {
      if case .send(let envelope, _) = directive, envelope.order > 0 { lastOrder = envelope.order }
      output.append(text(directive))
    }
  }

  private func text(_ ranges: [Range<Int>]) -> String {
    ranges.map { "\($0.lowerBound)..<\($0.upperBound)" }.joined(separator: " ")
  }

  private func text(_ directive: CoordinatorDirective) -> String {
    switch directive {
    case .persistWorker(let record): "persist \(record.worker)"
    case .persistGeneration(let generation, _, let reason): "persist \(generation): \(reason)"
    case .persistPlan(let record):
      "persist \(record.generation) from step \(record.fromStep): units \(text(record.plan.stageUnits)), "
        + "leaves \(text(record.plan.replicaLeaves)), places \(record.plan.places.map { $0.map(\.number) })"
    case .send(let envelope, let connections):
      connections.map { "-> \($0): \(text(envelope.message))" }.joined(separator: "\n")
    case .answerStatus(let connection): "status for \(connection)"
    case .commitStep(let record):
      "commit step \(record.step): samples \(record.samples), losses \(record.languageModelLoss ?? -1) "
        + "\(record.diffusionLoss ?? -1), norm \(record.gradientNorm)"
    case .recordSkip(let record): "record skip of samples \(record.samples): \(record.reason)"
    case .recordExpulsion(let record): "record expulsion of \(record.worker) by step \(record.step): \(record.reason)"
    case .revokeKey(let key): "revoke a key of \(key.count) bytes"
    case .recordEvaluation(let record):
      "record evaluation of \(record.step): \(record.languageModelLoss ?? -1) \(record.diffusionLoss ?? -1)"
    case .commitCheckpoint(let request):
      "commit checkpoint \(request.step): \(request.parts.map(\.file).joined(separator: " ")), next sample "
        + "\(request.nextSample)"
    case .discardCheckpoint(let step): "discard checkpoint \(step)"
    case .applyRetention: "apply retention"
    case .recordTrace(let report, let worker): "record \(report.spans.count) spans of \(worker)"
    case .log(let level, let text): "log \(level): \(text)"
    case .finish(let outcome): "finish \(outcome.kind) (exit \(outcome.exitCode)): \(outcome)"
    }
  }

  private func text(_ message: ControlMessage) -> String {
    switch message {
    case .welcome(let welcome): "welcome \(welcome.worker)"
    case .refused(let reason): "refused: \(reason)"
    case .prepare(let prepare): "prepare from step \(prepare.fromStep), \(text(prepare))"
    case .regroup: "regroup"
    case .introduce: "introduce yourself"
    case .save(let step): "save \(step)"
    case .runStep(let step): "run step \(step)"
    case .update(let update):
      "update \(update.step), sum of squares \(update.gradientSumOfSquares)" + (update.checkpoint ? ", checkpoint" : "")
        + (update.copy ? ", copy" : "")
    case .evaluate(let step): "evaluate \(step)"
    case .checkpointCommitted(let step): "checkpoint \(step) committed"
    case .coordinatorHeartbeat(let heartbeat):
      "heartbeat" + (heartbeat.awaitedOrder == 0 ? "" : ", awaits an answer")
        + (heartbeat.awaitedPart.map { ", awaits its part of checkpoint \($0)" } ?? "")
    case .stop(let stop): "stop \(stop.disposition): \(stop.reason)"
    default: "\(message)"
    }
  }

  private func text(_ prepare: Prepare) -> String {
    let origin =
      switch prepare.origin {
      case .seed: "from the seed"
      case .checkpoint: "from the checkpoint"
      case .members(let holders):
        "from "
          + holders.map { "\($0.worker) (\(text($0.parameters)); \(text($0.moments)))" }.joined(separator: ", ")
      }
    let update = prepare.norm.map {
      ", after an update with \($0.sumOfSquares) of the sums of generation \($0.generation.number)"
    }
    return origin + (update ?? "")
  }
}
