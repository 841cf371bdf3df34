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
      enter(task.command.generation, me: me, prepare.peers, worker)
      worker.enter("loading")
      if case .members = prepare.origin, worker.sums != nil, worker.live?.step == prepare.fromStep &- 1,
        let norm = prepare.gradientSumOfSquares
      {
        apply(prepare.fromStep - 1, norm, worker)
      }
      guard case .members(let holders) = prepare.origin else { return .compute(5_000) }
      if let failure = give(holders, prepare, me, worker) { return .failed(.software, failure) }
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
        let senders = Self.pieces(holders, prepare.plan, model).filter { $0.to == me && $0.from != me }
        for from in Set(senders.map(\.from)).sorted()
        where worker.inbox[Frame.key(.state, prepare.fromStep, from: from)] == nil { return .wait }
        return settle(place, collect(holders, prepare, me, worker), prepare, worker)
      }
    default: preconditionFailure("prepare has two stages")
    }
  }

  private func settle(
    _ place: Assignment?, _ values: StandInModel.Values?, _ prepare: Prepare, _ worker: WorkerProcess
  ) -> Progress {
    worker.assignment = place
    worker.sums = nil
    if let place, let values {
      let live = HeldTensors(
        step: prepare.fromStep, parameters: [place.tensors], moments: place.ownedRanges, values: values)
      worker.live = live
      check(live, of: worker, "is ready")
    } else {
      worker.live = nil
    }
    return .done(.ready(Ready(step: prepare.fromStep, dataFingerprint: Self.fingerprintOfData, memoryBytes: 0)))
  }

  /// What one worker gives another of a tensor.
  struct Piece {
    var tensor: Int
    var isMoments: Bool
    var from: WorkerID
    var to: WorkerID
  }

  /// Who gives what to whom: everybody computes the same.
  static func pieces(_ holders: [StateOrigin.Holder], _ plan: Plan, _ model: StandInModel) -> [Piece] {
    var pieces: [Piece] = []
    func add(_ tensor: Int, isMoments: Bool, to worker: WorkerID) {
      let having = holders.filter { ($0.isMoments(isMoments)).contains { $0.contains(tensor) } }.map(\.worker)
      guard !having.isEmpty else { return }
      let from = having.contains(worker) ? worker : having[(tensor + Int(worker.number)) % having.count]
      pieces.append(Piece(tensor: tensor, isMoments: isMoments, from: from, to: worker))
    }
    for (replica, row) in plan.places.enumerated() {
      for (stage, worker) in row.enumerated() {
        let tensors = model.tensors(ofUnits: plan.stageUnits[stage])
        for tensor in tensors { add(tensor, isMoments: false, to: worker) }
        for tensor in Assignment.owned(by: replica, of: tensors, replicas: plan.replicaCount) {
          add(tensor, isMoments: true, to: worker)
        }
      }
    }
    return pieces
  }

  /// A tensor of the state that is wanted, from what is held.
  private func source(_ tensor: Int, isMoments: Bool, _ step: Step, _ worker: WorkerProcess) -> StandInModel.Values? {
    for held in [worker.live].compactMap({ $0 }) + worker.copies {
      guard held.step == step || scenario.planted.contains(.wrongCopy) else { continue }
      if (isMoments ? held.moments : held.parameters).contains(where: { $0.contains(tensor) }) { return held.values }
    }
    return nil
  }

  /// Sends what others get from here.
  /// - Returns: what is missing, if anything is.
  private func give(
    _ holders: [StateOrigin.Holder], _ prepare: Prepare, _ me: WorkerID, _ worker: WorkerProcess
  ) -> String? {
    var frames: [WorkerID: [UInt64]] = [:]
    for piece in Self.pieces(holders, prepare.plan, scenario.model) where piece.from == me {
      guard let values = source(piece.tensor, isMoments: piece.isMoments, prepare.fromStep, worker) else {
        return "asked for tensor \(piece.tensor) of state \(prepare.fromStep), which is not here"
      }
      guard piece.to != me else { continue }
      frames[piece.to, default: []] +=
        piece.isMoments ? [values.first[piece.tensor], values.second[piece.tensor]] : [values.parameters[piece.tensor]]
    }
    for to in frames.keys.sorted() { send(.state, prepare.fromStep, frames[to] ?? [], to: to, from: worker) }
    return nil
  }

  private func collect(
    _ holders: [StateOrigin.Holder], _ prepare: Prepare, _ me: WorkerID, _ worker: WorkerProcess
  ) -> StandInModel.Values {
    var values = StandInModel.Values(count: scenario.model.tensorCount)
    var next: [WorkerID: Int] = [:]
    for piece in Self.pieces(holders, prepare.plan, scenario.model) where piece.to == me {
      if piece.from == me {
        guard let own = source(piece.tensor, isMoments: piece.isMoments, prepare.fromStep, worker) else { continue }
        if piece.isMoments {
          values.first[piece.tensor] = own.first[piece.tensor]
          values.second[piece.tensor] = own.second[piece.tensor]
        } else {
          values.parameters[piece.tensor] = own.parameters[piece.tensor]
        }
        continue
      }
      guard let frame = worker.inbox[Frame.key(.state, prepare.fromStep, from: piece.from)]?.values else { continue }
      let at = next[piece.from, default: 0]
      if piece.isMoments {
        values.first[piece.tensor] = frame[at]
        values.second[piece.tensor] = frame[at + 1]
        next[piece.from] = at + 2
      } else {
        values.parameters[piece.tensor] = frame[at]
        next[piece.from] = at + 1
      }
    }
    return values
  }
}

extension StateOrigin.Holder {
  fileprivate func isMoments(_ isMoments: Bool) -> [Range<Int>] { isMoments ? moments : parameters }
}
