import ClusterModel

/// What every stage of one replica does in a step, as data: built, validated, printed, then interpreted.
///
/// Backward passes are in ascending order on every stage of every schedule, because gradients accumulate
/// in that order (design, section 1).
public struct Schedule: Hashable, Sendable {
  public enum Purpose: String, Hashable, Sendable, Codable {
    case training
    /// Forward passes and losses alone.
    case evaluation
  }
  public let purpose: Purpose
  /// The number of microbatches of the replica.
  public let microbatches: Int
  public let stages: [StageSchedule]

  /// A schedule from lists of actions, one a stage; nothing is checked before ``validate(channelCapacity:)``.
  public init(purpose: Purpose, microbatches: Int, stages: [[ScheduleAction]]) {
    self.purpose = purpose
    self.microbatches = microbatches
    self.stages = stages.map { StageSchedule(actions: $0, microbatches: microbatches) }
  }

  /// The training schedule of a kind.
  /// - Precondition: at least one stage and one microbatch.
  public static func training(_ kind: ScheduleKind, stages: Int, microbatches: Int) -> Schedule {
    precondition(stages > 0 && microbatches > 0, "a schedule needs a stage and a microbatch")
    let lists = (0..<stages).map { stage in
      // GPipe (Huang et al. 2019, section 2.3): all forwards, then all backwards.
      // 1F1B (Narayanan et al. 2021, section 2.2.1): as many forwards ahead as stages follow, then in turn; and
      // one more, so that the time a message takes, or a larger microbatch, does not stop both neighbours. The
      // last stage waits for nobody's gradient and stays one forward, one backward.
      let ahead =
        switch kind {
        case .gpipe: microbatches
        case .oneForwardOneBackward: stage == stages - 1 ? 0 : min(stages - stage, microbatches)
        }
      let place = StagePosition(stage: stage, stages: stages)
      var actions: [ScheduleAction] = []
      for m in 0..<ahead { actions += place.forward(m) }
      for m in 0..<microbatches {
        if m + ahead < microbatches { actions += place.forward(m + ahead) }
        actions += place.backward(m)
      }
      return actions + [.reduce, .update]
    }
    return Schedule(purpose: .training, microbatches: microbatches, stages: lists)
  }

  /// The forward-only schedule; a replica may have no microbatch in it.
  public static func evaluation(stages: Int, microbatches: Int) -> Schedule {
    precondition(stages > 0 && microbatches >= 0, "a schedule needs a stage")
    let lists = (0..<stages).map { stage in
      let place = StagePosition(stage: stage, stages: stages)
      return (0..<microbatches).flatMap { place.evaluate($0) }
    }
    return Schedule(purpose: .evaluation, microbatches: microbatches, stages: lists)
  }

  /// Most slots that any stage needs.
  public var slots: Int { stages.map(\.slots).max() ?? 0 }
}

/// One stage's actions in order, and where it keeps the activations of each microbatch.
public struct StageSchedule: Hashable, Sendable {
  public let actions: [ScheduleAction]
  /// Activations that are alive at the same time: how many slots the stage allocates.
  public let slots: Int
  private let slotOfMicrobatch: [Int]

  init(actions: [ScheduleAction], microbatches: Int) {
    self.actions = actions
    var last: [Int: Int] = [:]
    for (index, action) in actions.enumerated() {
      if let m = action.microbatch { last[m] = index }
    }
    var assigned = [Int?](repeating: nil, count: max(microbatches, 0))
    var occupied: [Bool] = []
    for (index, action) in actions.enumerated() {
      // Microbatches outside the range are for `validate` to refuse.
      guard let m = action.microbatch, assigned.indices.contains(m) else { continue }
      let slot: Int
      if let old = assigned[m] {
        slot = old
      } else {
        slot = occupied.firstIndex(of: false) ?? occupied.count
        if slot == occupied.count { occupied.append(true) } else { occupied[slot] = true }
        assigned[m] = slot
      }
      if last[m] == index { occupied[slot] = false }
    }
    slotOfMicrobatch = assigned.map { $0 ?? 0 }
    slots = occupied.count
  }

  /// The slot of a microbatch from its first action to its last.
  /// - Precondition: `microbatch` is in the schedule's range.
  public func slot(for microbatch: Int) -> Int { slotOfMicrobatch[microbatch] }
}

/// Where a stage stands in the pipeline: which of its neighbours exist.
struct StagePosition {
  let stage: Int
  let stages: Int
  var isFirst: Bool { stage == 0 }
  var isLast: Bool { stage == stages - 1 }

  func forward(_ m: Int) -> [ScheduleAction] {
    (isFirst ? [] : [.receiveActivation(m)]) + [.forward(m)] + (isLast ? [] : [.sendActivation(m)])
  }
  func backward(_ m: Int) -> [ScheduleAction] {
    (isLast ? [] : [.receiveGradient(m)]) + [.backward(m)] + (isFirst ? [] : [.sendGradient(m)])
  }
  func evaluate(_ m: Int) -> [ScheduleAction] {
    (isFirst ? [] : [.receiveActivation(m)]) + [.evaluate(m)] + (isLast ? [] : [.sendActivation(m)])
  }
}
