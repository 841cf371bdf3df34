import ClusterModel
import ControlPlane
import Wire

/// The data plane, and how a generation's state comes together over it.
extension SimulatedCluster {
  // MARK: Frames

  func send(_ kind: Frame.Kind, _ step: Step, _ values: [UInt64], to member: WorkerID, from worker: WorkerProcess) {
    guard let receiver = worker.peers[member], !worker.isInterrupted else { return }
    let frame = Frame(
      kind: kind, generation: worker.generation, step: step, sender: worker.index, receiver: receiver, from: worker.me,
      values: values)
    let delay = network.reliableDelay(from: worker.slot, to: workers[receiver].slot, now: now, &random)
    queue.push(.frame(frame), at: now + delay)
  }

  func take(_ kind: Frame.Kind, _ step: Step, from member: WorkerID, _ worker: WorkerProcess) -> [UInt64]? {
    worker.inbox.removeValue(forKey: Frame.key(kind, step, from: member))?.values
  }

  func arrive(_ frame: Frame) {
    let sender = workers[frame.sender]
    let receiver = workers[frame.receiver]
    // The sender keeps it no longer than its generation; what was on the wire may be lost with it.
    guard sender.isAlive, sender.generation == frame.generation, !sender.isInterrupted, receiver.isAlive else { return }
    if let end = network.blockedUntil(from: sender.slot, to: receiver.slot) {
      queue.push(.frame(frame), at: max(end, now) + random.number(1_000, 100_000))
      return
    }
    guard !receiver.isPaused else {
      receiver.deferred.append(.frame(frame))
      return
    }
    stamp(12, frame.receiver)
    take(frame, receiver)
  }

  private func take(_ frame: Frame, _ receiver: WorkerProcess) {
    if frame.generation > receiver.generation || frame.generation == receiver.generation && receiver.isInterrupted {
      // Sent again until the receiver is there; here it waits instead.
      if frame.generation > receiver.generation { receiver.early.append(frame) }
      return
    }
    guard frame.generation == receiver.generation else { return }
    if frame.kind == .copy { return takeCopy(frame, receiver) }
    receiver.inbox[Frame.key(frame.kind, frame.step, from: frame.from)] = (receiver.arrivals, frame.values)
    receiver.arrivals += 1
    if receiver.task != nil { advance(receiver) }
  }

  /// Mirrors `DataPlane.enter`.
  private func enter(_ generation: Generation, me: WorkerID, _ peers: [Peer], _ worker: WorkerProcess) {
    worker.generation = generation
    worker.isInterrupted = false
    worker.me = me
    worker.inbox = [:]
    worker.peers = [:]
    for peer in peers { worker.peers[peer.worker] = Int(peer.dataEndpoint.dropFirst()) ?? 0 }
    let early = worker.early
    worker.early = []
    for frame in early {
      if frame.generation > generation { worker.early.append(frame) }
      guard frame.generation == generation, workers[frame.sender].isAlive,
        workers[frame.sender].generation == generation, !workers[frame.sender].isInterrupted
      else { continue }
      if frame.kind == .copy { continue }
      worker.inbox[Frame.key(frame.kind, frame.step, from: frame.from)] = (worker.arrivals, frame.values)
      worker.arrivals += 1
    }
  }

  // MARK: Prepare

  func prepare(_ prepare: Prepare, _ task: inout EngineTask, _ worker: WorkerProcess) -> Progress {
    let model = scenario.model
    let me = task.command.me
    switch task.stage {
    case 0:
      do { worker.skips = try SkippedSamples(prepare.skipped, perStep: UInt64(model.shape.microbatches)) } catch {
        return .failed(.software, "\(error)")
      }
      enter(task.command.generation, me: me, prepare.peers, worker)
      worker.enter("loading")
      if case .members = prepare.origin, var norm = prepare.norm {
        if scenario.planted.contains(.anySums) { norm.generation = worker.liveGeneration }
        if worker.standing.madeBySums(norm) != nil { apply(prepare.fromStep - 1, norm.sumOfSquares, worker) }
      }
      guard case .members(let holders) = prepare.origin else { return .compute(5_000) }
      guard let pieces = pieces(holders, prepare, task.command.generation) else {
        return .failed(.software, "asked to begin with state \(prepare.fromStep), parts of which nobody holds")
      }
      if let failure = give(pieces, prepare.fromStep, me, worker) { return .failed(.software, failure) }
      return .go
    case 1:
      let place = Assignment(prepare.plan, of: me, model: model)
      guard let place else { return settle(nil, nil, prepare, worker) }
      switch prepare.origin {
      case .seed:
        worker.sampleOffset = 0
        return settle(place, model.initialState(), prepare, worker)
      case .checkpoint:
        if scenario.planted.contains(.repeatSamples) { worker.sampleOffset = UInt64(model.shape.microbatches) }
        guard
          let values = store.load(
            prepare.fromStep, count: model.tensorCount, trusting: scenario.planted.contains(.trustFiles))
        else { return .failed(.storage, "the checkpoint of step \(prepare.fromStep) does not load") }
        return settle(place, values, prepare, worker)
      case .members(let holders):
        worker.enter("receive")
        let pieces = pieces(holders, prepare, task.command.generation) ?? []
        for piece in pieces
        where piece.to == me && piece.from != me
          && worker.inbox[Frame.key(.state, prepare.fromStep, from: piece.from)] == nil
        {
          return .wait
        }
        return settle(place, collect(pieces, prepare.fromStep, me, worker), prepare, worker)
      }
    default: preconditionFailure("prepare has two stages")
    }
  }

  private func settle(
    _ place: Assignment?, _ values: StandInModel.Values?, _ prepare: Prepare, _ worker: WorkerProcess
  ) -> Progress {
    // What it held stays until the generation has begun: others may not be ready yet.
    if let live = worker.live { worker.carried = live }
    worker.assignment = place
    worker.sums = nil
    if let place, let values {
      let live = HeldTensors(
        step: prepare.fromStep, parameters: [place.tensors], moments: place.keptRanges, values: values)
      worker.live = live
      worker.liveGeneration = worker.generation
      check(live, of: worker, "is ready")
    } else {
      worker.live = nil
    }
    return .done(.ready(Ready(step: prepare.fromStep, dataFingerprint: Self.fingerprintOfData, memoryBytes: 0)))
  }

  /// Who needs what under a plan: everybody computes the same.
  private func needs(_ plan: Plan) -> [StateHolding] {
    var needs: [StateHolding] = []
    for row in plan.places {
      for worker in row {
        guard let place = Assignment(plan, of: worker, model: scenario.model) else { continue }
        needs.append(StateHolding(worker: worker, parameters: [place.tensors], moments: place.keptRanges))
      }
    }
    return needs
  }

  private func pieces(_ holders: [StateHolding], _ prepare: Prepare, _ generation: Generation)
    -> [StateTransfer.Piece]?
  {
    // All workers are asked the same: once is enough.
    if let known = knownPieces, known.generation == generation, known.prepare == prepare { return known.pieces }
    let pieces = StateTransfer.pieces(held: holders, needed: needs(prepare.plan))
    knownPieces = pieces.map { (generation, prepare, $0) }
    return pieces
  }

  /// A tensor of the state that is wanted, from what is held.
  private func source(_ tensor: Int, _ part: StatePart, _ step: Step, _ worker: WorkerProcess) -> UInt64? {
    func find(in held: HeldTensors) -> UInt64? {
      guard held.step == step || scenario.planted.contains(.wrongCopy) else { return nil }
      let ranges = part == .parameters ? held.parameters : held.moments
      guard ranges.contains(where: { $0.contains(tensor) }) else { return nil }
      return held.values[part][tensor]
    }
    if let live = worker.live, let found = find(in: live) { return found }
    if let carried = worker.carried, let found = find(in: carried) { return found }
    for copy in worker.copies { if let found = find(in: copy) { return found } }
    return nil
  }

  /// Sends what others get from here.
  /// - Returns: what is missing, if anything is.
  private func give(_ pieces: [StateTransfer.Piece], _ step: Step, _ me: WorkerID, _ worker: WorkerProcess) -> String? {
    var frames: [WorkerID: [UInt64]] = [:]
    for piece in pieces where piece.from == me {
      guard let value = source(piece.tensor, piece.part, step, worker) else {
        return "asked for \(piece.part) of tensor \(piece.tensor) of state \(step), which is not here"
      }
      if piece.to != me { frames[piece.to, default: []].append(value) }
    }
    for to in frames.keys.sorted() { send(.state, step, frames[to] ?? [], to: to, from: worker) }
    return nil
  }

  private func collect(_ pieces: [StateTransfer.Piece], _ step: Step, _ me: WorkerID, _ worker: WorkerProcess)
    -> StandInModel.Values
  {
    var values = StandInModel.Values(count: scenario.model.tensorCount)
    var next: [WorkerID: Int] = [:]
    for piece in pieces where piece.to == me {
      if piece.from == me {
        values[piece.part][piece.tensor] = source(piece.tensor, piece.part, step, worker) ?? 0
        continue
      }
      let at = next[piece.from, default: 0]
      next[piece.from] = at + 1
      let frame = worker.inbox[Frame.key(.state, step, from: piece.from)]?.values ?? []
      values[piece.part][piece.tensor] = at < frame.count ? frame[at] : 0
    }
    return values
  }
}

extension StandInModel.Values {
  subscript(part: StatePart) -> [UInt64] {
    get {
      switch part {
      case .parameters: parameters
      case .firstMoment: first
      case .secondMoment: second
      }
    }
    _modify {
      switch part {
      case .parameters: yield &parameters
      case .firstMoment: yield &first
      case .secondMoment: yield &second
      }
    }
  }
}
