import ClusterModel
import ControlPlane
import Wire

/// What the machine asked of the compute thread.
struct EngineCommand {
  var order: WorkerOrder
  var me: WorkerID
  var number: UInt64
  var generation: Generation
}

/// An order that is being carried out.
struct EngineTask {
  var command: EngineCommand
  /// How far it has come: each order counts its own stages.
  var stage = 0
  /// Its generation is over: it ends where it next looks.
  var isAborted = false
  var outputs: [UInt64] = []
  var inputs: [UInt64] = []
  var gradients: [UInt64] = []
  /// Its losses and sums are wrong.
  var isWrong = false
}

/// A worker's place in a generation, and what follows from it.
struct Assignment {
  var plan: Plan
  var place: Place
  /// The stage's.
  var tensors: Range<Int>
  /// What it sums, updates and gives to the others of its stage.
  var owned: [Int]
  /// What it sums and updates: its own, and what it keeps for another replica.
  var kept: [Int]
  /// The workers of its stage, by replica.
  var group: [WorkerID]
  var before: WorkerID?
  var after: WorkerID?
  var microbatches: Range<Int>
  /// Nodes of the leaf tree that each replica sums.
  var nodes: [[Range<Int>]]

  init?(_ plan: Plan, of worker: WorkerID, model: StandInModel) {
    guard let place = plan.place(of: worker) else { return nil }
    self.plan = plan
    self.place = place
    tensors = model.tensors(ofUnits: plan.stageUnits[place.stage])
    owned = Self.owned(by: place.replica, of: tensors, replicas: plan.replicaCount)
    kept = Self.kept(by: place.replica, of: tensors, replicas: plan.replicaCount)
    group = plan.places.map { $0[place.stage] }
    let row = plan.places[place.replica]
    before = place.stage > 0 ? row[place.stage - 1] : nil
    after = place.stage + 1 < row.count ? row[place.stage + 1] : nil
    microbatches = model.shape.microbatches(ofLeaves: plan.replicaLeaves[place.replica])
    let tree = LeafTree(leaves: model.shape.leaves)
    nodes = plan.replicaLeaves.map { tree.wholeSubtrees(in: $0) }
  }

  static func owned(by replica: Int, of tensors: Range<Int>, replicas: Int) -> [Int] {
    tensors.filter { ($0 - tensors.lowerBound) % replicas == replica }
  }
  /// A tensor's backup is the replica after its owner.
  static func kept(by replica: Int, of tensors: Range<Int>, replicas: Int) -> [Int] {
    tensors.filter {
      let owner = ($0 - tensors.lowerBound) % replicas
      return owner == replica || (owner + 1) % replicas == replica
    }
  }
  var ownedRanges: [Range<Int>] { Self.ranges(owned) }
  var keptRanges: [Range<Int>] { Self.ranges(kept) }
  static func ranges(_ tensors: [Int]) -> [Range<Int>] {
    var result: [Range<Int>] = []
    for tensor in tensors {
      if let last = result.last, last.upperBound == tensor {
        result[result.count - 1] = last.lowerBound..<tensor + 1
      } else {
        result.append(tensor..<tensor + 1)
      }
    }
    return result
  }
}

extension SimulatedCluster {
  /// What a stage of an order leads to.
  enum Progress {
    /// Go on with the next stage at once.
    case go
    /// Busy for so many microseconds.
    case compute(UInt64)
    /// Until frames arrive.
    case wait
    case done(ControlMessage?)
    case failed(FailureKind, String)
  }

  // MARK: The compute thread

  /// Goes on as far as it can.
  func advance(_ worker: WorkerProcess) {
    while worker.isAlive, !worker.isBusy, monitor.violation == nil {
      if worker.hangUntil > now {
        sleep(worker, until: worker.hangUntil)
        return
      }
      guard var task = worker.task else {
        guard !worker.commands.isEmpty else { return }
        worker.task = EngineTask(command: worker.commands.removeFirst())
        continue
      }
      if task.isAborted {
        abandon(task, worker)
        worker.task = nil
        worker.enter("idle")
        continue
      }
      let progress = step(&task, worker)
      guard worker.isAlive else { return }
      worker.task = task
      switch progress {
      case .go: worker.task?.stage += 1
      case .compute(let time):
        worker.task?.stage += 1
        let speed = scenario.gigaflops[worker.slot] / 100
        sleep(worker, until: now + UInt64(Double(time * random.number(80, 130)) / (100 * speed)))
        return
      case .wait: return
      case .done(let message):
        worker.task = nil
        worker.lastCommand = task.command
        worker.enter("barrier")
        if let message {
          feed(.done(message, order: task.command.number, generation: task.command.generation), to: worker)
        }
      case .failed(let kind, let reason):
        worker.task = nil
        worker.enter("idle")
        note("\(worker.name) fails: \(reason)")
        feed(.failed(kind, reason: reason, order: task.command.number, generation: task.command.generation), to: worker)
      }
    }
  }

  private func sleep(_ worker: WorkerProcess, until time: UInt64) {
    worker.isBusy = true
    worker.epoch += 1
    queue.push(.engine(worker.index, epoch: worker.epoch), at: time)
  }

  func wake(_ worker: WorkerProcess, _ epoch: UInt64) {
    guard worker.isBusy, worker.epoch == epoch else { return }
    stamp(11, worker.index)
    worker.isBusy = false
    advance(worker)
  }

  /// Whatever it waits for, it waits no longer; what it computes, it ends first.
  func interrupt(_ worker: WorkerProcess) {
    worker.isInterrupted = true
    worker.commands = []
    worker.inbox = [:]
    guard worker.task != nil else { return }
    worker.task?.isAborted = true
    if !worker.isBusy { advance(worker) }
  }

  /// An optimizer that is interrupted has gone through all of its tensors, or none, or is lost between two states.
  private func abandon(_ task: EngineTask, _ worker: WorkerProcess) {
    guard case .update(let update) = task.command.order, task.stage == 1 else { return }
    switch random.below(8) {
    case 0, 1, 2: break
    case 3, 4, 5, 6: apply(update.step, update.gradientSumOfSquares, worker)
    default:
      worker.live = nil
      worker.sums = nil
    }
  }

  private func step(_ task: inout EngineTask, _ worker: WorkerProcess) -> Progress {
    switch task.command.order {
    case .standing, .prepare: break
    // Everybody was ready: the generation has begun.
    case .runStep, .update, .evaluate, .save: worker.carried = nil
    }
    switch task.command.order {
    case .standing: return stand(worker)
    case .prepare(let prepare): return self.prepare(prepare, &task, worker)
    case .runStep(let step): return runStep(step, &task, worker)
    case .update(let update): return self.update(update, &task, worker)
    case .evaluate(let step): return evaluate(step, &task, worker)
    case .save(let step):
      guard let live = worker.live, live.step == step else {
        return .failed(.software, "asked to save state \(step), holds \(worker.live?.step.description ?? "none")")
      }
      writePart(task.command.generation, worker)
      return .done(nil)
    }
  }

  // MARK: Standing

  private func stand(_ worker: WorkerProcess) -> Progress {
    worker.enter("idle")
    if let live = worker.live { check(live, of: worker, "stands") }
    for copy in worker.allCopies { check(copy, of: worker, "stands with a copy") }
    return .done(.standing(worker.standing))
  }

  // MARK: A step

  private func runStep(_ step: Step, _ task: inout EngineTask, _ worker: WorkerProcess) -> Progress {
    guard let place = worker.assignment, let live = worker.live, live.step == step, live.parameters == [place.tensors]
    else {
      return .failed(.software, "asked to compute step \(step), holds \(worker.live.map { "\($0.held)" } ?? "nothing")")
    }
    let model = scenario.model
    let perStep = UInt64(model.shape.microbatches)
    let base = worker.skips.samples(step: step, perStep: perStep).lowerBound - worker.sampleOffset
    switch task.stage {
    case 0:
      worker.sums = nil
      worker.enter("receive")
      return .go
    case 1:
      if let before = place.before {
        guard let values = take(.activation, step, from: before, worker) else { return .wait }
        task.inputs = values
      } else {
        task.inputs = place.microbatches.map { model.sample(base + UInt64($0)) }
      }
      worker.enter("forward")
      return .compute(scenario.forwardTime / UInt64(place.plan.stageCount))
    case 2:
      task.outputs = task.inputs.map { model.forward($0, through: place.tensors, live.values.parameters) }
      if let after = place.after { send(.activation, step, task.outputs, to: after, from: worker) }
      worker.enter("receive")
      return .go
    case 3:
      if let after = place.after {
        guard let values = take(.activationGradient, step, from: after, worker) else { return .wait }
        task.gradients = values
      } else {
        task.gradients = task.outputs.map(model.outputGradient)
      }
      worker.enter("backward")
      return .compute(2 * scenario.forwardTime / UInt64(place.plan.stageCount))
    case 4:
      let leafSize = model.shape.microbatchesPerLeaf
      var sums = [UInt64](repeating: 0, count: place.tensors.count)
      var leaves: [[UInt64]] = []
      for (index, m) in place.microbatches.enumerated() {
        task.gradients[index] = model.backward(
          task.gradients[index], input: base + UInt64(m), through: place.tensors, live.values.parameters, into: &sums,
          isFirst: m % leafSize == 0)
        if m % leafSize == leafSize - 1 { leaves.append(sums) }
      }
      if let before = place.before { send(.activationGradient, step, task.gradients, to: before, from: worker) }
      let first = place.plan.replicaLeaves[place.place.replica].lowerBound
      var own = place.nodes[place.place.replica].map { Self.sum($0, leaves, first: first) }
      task.isWrong = place.after == nil && isWrong(place, worker)
      if task.isWrong { own = own.map { sums in sums.map { $0 ^ 0xBAD } } }
      for (replica, member) in place.group.enumerated() {
        let kept = Assignment.kept(by: replica, of: place.tensors, replicas: place.group.count)
        let values = own.flatMap { node in kept.map { node[$0 - place.tensors.lowerBound] } }
        if replica == place.place.replica {
          worker.inbox[Frame.key(.partialSum, step, from: member)] = (worker.arrivals, values)
          worker.arrivals += 1
        } else {
          send(.partialSum, step, values, to: member, from: worker)
        }
      }
      worker.enter("reduce")
      return .go
    default:
      for member in place.group where worker.inbox[Frame.key(.partialSum, step, from: member)] == nil { return .wait }
      let norms = complete(step, place, worker)
      let losses: [MicrobatchLoss] =
        place.after == nil
        ? place.microbatches.enumerated().map { index, m in
          var loss = model.loss(position: base + UInt64(m), output: task.outputs[index], microbatch: m)
          if task.isWrong { loss.languageModelSum = .nan }
          return loss
        } : []
      return .done(.reduced(Reduced(step: step, losses: losses, norms: norms)))
    }
  }

  private static func sum(_ node: Range<Int>, _ leaves: [[UInt64]], first: Int) -> [UInt64] {
    guard let (left, right) = LeafTree.children(of: node) else { return leaves[node.lowerBound - first] }
    return zip(sum(left, leaves, first: first), sum(right, leaves, first: first)).map { StandInModel.added($0, $1) }
  }

  /// The sums of the owned tensors over all replicas, along the one tree.
  private func complete(_ step: Step, _ place: Assignment, _ worker: WorkerProcess) -> [TensorNorm] {
    var sumOf: [(node: Range<Int>, values: [UInt64], arrival: Int)] = []
    let width = place.kept.count
    for (replica, member) in place.group.enumerated() {
      guard let frame = worker.inbox.removeValue(forKey: Frame.key(.partialSum, step, from: member)) else { continue }
      for (ordinal, node) in place.nodes[replica].enumerated() {
        sumOf.append((node, Array(frame.values[ordinal * width..<(ordinal + 1) * width]), frame.arrival))
      }
    }
    func total(_ node: Range<Int>) -> [UInt64] {
      if let found = sumOf.first(where: { $0.node == node }) { return found.values }
      guard let (left, right) = LeafTree.children(of: node) else {
        preconditionFailure("a leaf that nobody has summed")
      }
      return zip(total(left), total(right)).map { StandInModel.added($0, $1) }
    }
    var whole: [UInt64]
    if scenario.planted.contains(.sumByArrival) {
      sumOf.sort { $0.arrival < $1.arrival }
      whole = sumOf[0].values
      for other in sumOf.dropFirst() { whole = zip(whole, other.values).map { StandInModel.added($0, $1) } }
    } else {
      whole = total(0..<scenario.model.shape.leaves)
    }
    var sums = [UInt64](repeating: 0, count: scenario.model.tensorCount)
    for (index, tensor) in place.kept.enumerated() { sums[tensor] = whole[index] }
    worker.sums = sums
    return place.owned.map { TensorNorm(tensor: UInt32($0), sumOfSquares: scenario.model.square(sums[$0])) }
  }

  // MARK: Update

  private func update(_ update: Update, _ task: inout EngineTask, _ worker: WorkerProcess) -> Progress {
    guard let place = worker.assignment, let live = worker.live else { return .failed(.software, "no place to update") }
    switch task.stage {
    case 0:
      guard worker.sums != nil, live.step == update.step else {
        return .failed(
          .software, "asked to update step \(update.step), holds state \(live.step), sums: \(worker.sums != nil)")
      }
      worker.enter("update")
      return .compute(scenario.updateTime)
    case 1:
      apply(update.step, update.gradientSumOfSquares, worker)
      let values = place.owned.map { worker.live?.values.parameters[$0] ?? 0 }
      for (replica, member) in place.group.enumerated() where replica != place.place.replica {
        send(.parameters, update.step, values, to: member, from: worker)
      }
      worker.enter("gather")
      return .go
    default:
      for (replica, member) in place.group.enumerated() where replica != place.place.replica {
        guard worker.inbox[Frame.key(.parameters, update.step, from: member)] != nil else { return .wait }
      }
      for (replica, member) in place.group.enumerated() where replica != place.place.replica {
        guard let values = take(.parameters, update.step, from: member, worker) else { continue }
        let theirs = Assignment.owned(by: replica, of: place.tensors, replicas: place.group.count)
        for (index, tensor) in theirs.enumerated() { worker.live?.values.parameters[tensor] = values[index] }
      }
      worker.live?.parameters = [place.tensors]
      if let live = worker.live { check(live, of: worker, "has updated step \(update.step)") }
      if update.checkpoint { writePart(task.command.generation, worker) }
      if update.copy { copy(worker) }
      return .done(.updated(Updated(step: update.step, phases: PhaseSeconds(), memoryBytes: 0)))
    }
  }

  /// Brings the owned tensors to the next state; those of others are as they were, and so not held any more.
  func apply(_ step: Step, _ sumOfSquares: Double, _ worker: WorkerProcess) {
    guard var live = worker.live, let sums = worker.sums, let place = worker.assignment else { return }
    worker.live = nil
    applies(step, worker)
    for tensor in place.kept {
      scenario.model.update(&live.values, tensor: tensor, sum: sums[tensor], sumOfSquares: sumOfSquares, step: step)
    }
    live.step = step + 1
    live.parameters = place.keptRanges
    live.moments = place.keptRanges
    worker.live = live
    worker.sums = nil
  }

  // MARK: Evaluation

  private func evaluate(_ step: Step, _ task: inout EngineTask, _ worker: WorkerProcess) -> Progress {
    guard let place = worker.assignment, let live = worker.live, live.step == step, live.parameters == [place.tensors]
    else {
      return .failed(.software, "asked to evaluate state \(step), holds \(worker.live?.step.description ?? "none")")
    }
    let model = scenario.model
    let count = scenario.validationMicrobatches
    let replica = place.place.replica
    let range = count * replica / place.group.count..<count * (replica + 1) / place.group.count
    switch task.stage {
    case 0:
      worker.enter("receive")
      return .go
    case 1:
      if let before = place.before {
        guard let values = take(.validationActivation, step, from: before, worker) else { return .wait }
        task.inputs = values
      } else {
        task.inputs = range.map(model.validationSample)
      }
      worker.enter("evaluate")
      return .compute(scenario.forwardTime / UInt64(place.plan.stageCount))
    default:
      let outputs = task.inputs.map { model.forward($0, through: place.tensors, live.values.parameters) }
      if let after = place.after {
        send(.validationActivation, step, outputs, to: after, from: worker)
        return .done(.evaluated(Evaluated(step: step, losses: [])))
      }
      let losses = zip(range, outputs).map {
        model.loss(position: StandInModel.validationPosition($0), output: $1, microbatch: $0)
      }
      return .done(.evaluated(Evaluated(step: step, losses: losses)))
    }
  }

  // MARK: Copies and checkpoints

  private func writePart(_ generation: Generation, _ worker: WorkerProcess) {
    guard let place = worker.assignment, let live = worker.live else { return }
    let rank = place.place.replica * place.plan.stageCount + place.place.stage
    let values = place.owned.flatMap { [live.values.parameters[$0], live.values.first[$0], live.values.second[$0]] }
    let job = PartJob(
      step: live.step, generation: generation, file: "worker-\(rank)-g\(generation.number).h5", tensors: place.owned,
      values: values)
    let time = scenario.partTime / 2 + random.number(0, scenario.partTime)
    queue.push(.partWritten(worker.index, job), at: now + time * disk.slowness)
  }

  /// Keeps what it owns, and gives it to the worker at the next place.
  private func copy(_ worker: WorkerProcess) {
    guard let place = worker.assignment, let live = worker.live else { return }
    keep(
      HeldTensors(step: live.step, parameters: place.ownedRanges, moments: place.ownedRanges, values: live.values),
      worker)
    guard let buddy = place.plan.buddy(of: worker.me) else { return }
    var values = place.owned.map { UInt64($0) }
    for tensor in place.owned {
      values += [live.values.parameters[tensor], live.values.first[tensor], live.values.second[tensor]]
    }
    send(.copy, live.step, values, to: buddy, from: worker)
  }

  /// The newest two states stay.
  private func keep(_ copy: HeldTensors, _ worker: WorkerProcess) {
    worker.copies.append(copy)
    let newest = Set(Set(worker.copies.map(\.step)).sorted().suffix(2))
    worker.copies.removeAll { !newest.contains($0.step) }
    if worker.copies.count > 6 { worker.copies.removeFirst() }
  }

  func takeCopy(_ frame: Frame, _ worker: WorkerProcess) {
    let count = frame.values.count / 4
    let tensors = frame.values.prefix(count).map { Int($0) }
    var values = StandInModel.Values(count: scenario.model.tensorCount)
    for (index, tensor) in tensors.enumerated() {
      values.parameters[tensor] = frame.values[count + 3 * index]
      values.first[tensor] = frame.values[count + 3 * index + 1]
      values.second[tensor] = frame.values[count + 3 * index + 2]
    }
    let ranges = Assignment.ranges(tensors)
    keep(HeldTensors(step: frame.step, parameters: ranges, moments: ranges, values: values), worker)
    feed(.noted(.copied(step: frame.step), generation: frame.generation), to: worker)
  }
}
