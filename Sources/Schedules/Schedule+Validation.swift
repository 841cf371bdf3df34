extension Schedule {
  /// Checks that the schedule can be run: every action once and in place, each forward before its backward,
  /// backwards ascending, sends matched by receives in the same order, and no deadlock when a channel
  /// between two neighbours holds `channelCapacity` messages per direction.
  ///
  /// One is the hardest case that buffered sends can meet, so the data plane's credits never matter.
  public func validate(channelCapacity: Int = 1) throws(ScheduleError) {
    guard !stages.isEmpty else { throw .noStages }
    for index in stages.indices { try validateStage(index) }
    for stage in stages.indices.dropLast() {
      try matchOrder(from: stage, to: stage + 1, sends: \.sentActivation, receives: \.receivedActivation)
      try matchOrder(from: stage + 1, to: stage, sends: \.sentGradient, receives: \.receivedGradient)
    }
    try rehearse(channelCapacity: channelCapacity)
  }

  /// What a stage must do for each microbatch, in this order.
  private func chain(_ m: Int, at stage: Int) -> [ScheduleAction] {
    let place = StagePosition(stage: stage, stages: stages.count)
    return switch purpose {
    case .training: place.forward(m) + place.backward(m)
    case .evaluation: place.evaluate(m)
    }
  }

  private func validateStage(_ stage: Int) throws(ScheduleError) {
    let actions = stages[stage].actions
    var position: [ScheduleAction: Int] = [:]
    var expected: Set<ScheduleAction> = purpose == .training ? [.reduce, .update] : []
    for m in 0..<microbatches { expected.formUnion(chain(m, at: stage)) }
    var lastBackward = -1
    for (index, action) in actions.enumerated() {
      if let m = action.microbatch, !(0..<microbatches).contains(m) {
        throw .unknownMicrobatch(stage: stage, action: action, microbatches: microbatches)
      }
      guard expected.contains(action) else { throw .actionOutOfPlace(stage: stage, action: action) }
      guard position.updateValue(index, forKey: action) == nil else { throw .repeated(stage: stage, action: action) }
      if case .backward(let m) = action {
        guard m > lastBackward else { throw .backwardsNotAscending(stage: stage, microbatch: m) }
        lastBackward = m
      }
    }
    func check(_ order: [ScheduleAction]) throws(ScheduleError) {
      var before: (action: ScheduleAction, index: Int)?
      for action in order {
        guard let index = position[action] else { throw .missing(stage: stage, action: action) }
        if let before, before.index > index { throw .tooEarly(stage: stage, action: action, needs: before.action) }
        before = (action, index)
      }
    }
    for m in 0..<microbatches { try check(chain(m, at: stage)) }
    guard purpose == .training else { return }
    try check((0..<microbatches).map { .backward($0) } + [.reduce, .update])
  }

  private func matchOrder(
    from sender: Int, to receiver: Int, sends: KeyPath<ScheduleAction, Int?>, receives: KeyPath<ScheduleAction, Int?>
  ) throws(ScheduleError) {
    let sent = stages[sender].actions.compactMap { $0[keyPath: sends] }
    let received = stages[receiver].actions.compactMap { $0[keyPath: receives] }
    guard sent == received else {
      throw .orderMismatch(stage: sender, sends: sent, receiver: receiver, receives: received)
    }
  }

  /// Runs all stages against bounded channels until everyone is done or nobody can move.
  private func rehearse(channelCapacity: Int) throws(ScheduleError) {
    var next = [Int](repeating: 0, count: stages.count)
    // Index i: the channels between stage i and stage i + 1. Order is already known to match.
    var activations = [Int](repeating: 0, count: stages.count)
    var gradients = [Int](repeating: 0, count: stages.count)
    func step(_ stage: Int) -> Bool {
      guard next[stage] < stages[stage].actions.count else { return false }
      switch stages[stage].actions[next[stage]] {
      case .sendActivation:
        guard activations[stage] < channelCapacity else { return false }
        activations[stage] += 1
      case .receiveActivation:
        guard activations[stage - 1] > 0 else { return false }
        activations[stage - 1] -= 1
      case .sendGradient:
        guard gradients[stage - 1] < channelCapacity else { return false }
        gradients[stage - 1] += 1
      case .receiveGradient:
        guard gradients[stage] > 0 else { return false }
        gradients[stage] -= 1
      case .forward, .backward, .evaluate, .reduce, .update: break
      }
      next[stage] += 1
      return true
    }
    var moved = true
    while moved {
      moved = false
      for stage in stages.indices {
        while step(stage) { moved = true }
      }
    }
    let waiting = stages.indices.filter { next[$0] < stages[$0].actions.count }
    guard waiting.isEmpty else {
      throw .deadlock(waiting: waiting.map { .init(stage: $0, action: stages[$0].actions[next[$0]]) })
    }
  }
}

extension ScheduleAction {
  var sentActivation: Int? { if case .sendActivation(let m) = self { m } else { nil } }
  var receivedActivation: Int? { if case .receiveActivation(let m) = self { m } else { nil } }
  var sentGradient: Int? { if case .sendGradient(let m) = self { m } else { nil } }
  var receivedGradient: Int? { if case .receiveGradient(let m) = self { m } else { nil } }
}
