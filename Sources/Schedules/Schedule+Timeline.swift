/// What one stage needs for one microbatch, in any unit of time.
public struct StageCost: Hashable, Sendable, Codable {
  public var forward: Double
  public var backward: Double
  public init(forward: Double, backward: Double) {
    self.forward = forward
    self.backward = backward
  }
}

/// When each stage computes what, if messages take no time.
public struct Timeline: Hashable, Sendable {
  public struct Span: Hashable, Sendable {
    /// A forward, backward or evaluate action.
    public var action: ScheduleAction
    public var start: Double
    public var end: Double
  }
  /// Per stage, in order of time.
  public var stages: [[Span]]
  /// From the first start to the last end.
  public var duration: Double

  /// The share of the stages' time in which they wait: 0 when all are always busy.
  public var bubbleFraction: Double {
    let total = duration * Double(stages.count)
    guard total > 0 else { return 0 }
    let busy = stages.reduce(0) { $0 + $1.reduce(0) { $0 + ($1.end - $1.start) } }
    return max(0, 1 - busy / total)
  }
}

extension Schedule {
  /// Plays the schedule with a cost per stage.
  /// - Precondition: the schedule is valid and `costs` has one entry per stage.
  public func timeline(costs: [StageCost]) -> Timeline {
    precondition(costs.count == stages.count, "one cost per stage")
    var next = [Int](repeating: 0, count: stages.count)
    var clock = [Double](repeating: 0, count: stages.count)
    var spans = [[Timeline.Span]](repeating: [], count: stages.count)
    var activationReady = [[Double?]](repeating: Array(repeating: nil, count: microbatches), count: stages.count)
    var gradientReady = activationReady
    /// True when the stage's next action could be done; its start is when its input is there.
    func step(_ stage: Int) -> Bool {
      guard next[stage] < stages[stage].actions.count else { return false }
      let action = stages[stage].actions[next[stage]]
      func compute(_ cost: Double) {
        spans[stage].append(.init(action: action, start: clock[stage], end: clock[stage] + cost))
        clock[stage] += cost
      }
      switch action {
      case .receiveActivation(let m):
        guard let ready = activationReady[stage - 1][m] else { return false }
        clock[stage] = max(clock[stage], ready)
      case .receiveGradient(let m):
        guard let ready = gradientReady[stage + 1][m] else { return false }
        clock[stage] = max(clock[stage], ready)
      case .sendActivation(let m): activationReady[stage][m] = clock[stage]
      case .sendGradient(let m): gradientReady[stage][m] = clock[stage]
      case .forward, .evaluate: compute(costs[stage].forward)
      case .backward: compute(costs[stage].backward)
      case .reduce, .update: break
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
    precondition(
      stages.indices.allSatisfy { next[$0] == stages[$0].actions.count }, "the schedule deadlocks: validate it first")
    return Timeline(stages: spans, duration: clock.max() ?? 0)
  }

  /// The share of time that stages wait, for a cost per stage.
  public func bubbleFraction(costs: [StageCost]) -> Double { timeline(costs: costs).bubbleFraction }
}
