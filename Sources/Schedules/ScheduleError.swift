/// Why a schedule must not be run.
public enum ScheduleError: Error, Hashable, Sendable, CustomStringConvertible {
  case noStages
  case unknownMicrobatch(stage: Int, action: ScheduleAction, microbatches: Int)
  /// An action of the other purpose, or a send or receive where there is no neighbour.
  case actionOutOfPlace(stage: Int, action: ScheduleAction)
  case repeated(stage: Int, action: ScheduleAction)
  case missing(stage: Int, action: ScheduleAction)
  /// `action` comes before what it needs on its own stage.
  case tooEarly(stage: Int, action: ScheduleAction, needs: ScheduleAction)
  case backwardsNotAscending(stage: Int, microbatch: Int)
  /// A neighbour receives in another order than this stage sends.
  case orderMismatch(stage: Int, sends: [Int], receiver: Int, receives: [Int])
  /// Nobody can go on; `waiting` is what each unfinished stage stands at.
  case deadlock(waiting: [StageWait])

  public struct StageWait: Hashable, Sendable {
    public var stage: Int
    public var action: ScheduleAction
    public init(stage: Int, action: ScheduleAction) {
      self.stage = stage
      self.action = action
    }
  }

  public var description: String {
    switch self {
    case .noStages: "the schedule has no stages"
    case .unknownMicrobatch(let stage, let action, let microbatches):
      "stage \(stage) has \(action), but the replica has \(microbatches) microbatches"
    case .actionOutOfPlace(let stage, let action): "stage \(stage) cannot do \(action): wrong end or wrong purpose"
    case .repeated(let stage, let action): "stage \(stage) does \(action) twice"
    case .missing(let stage, let action): "stage \(stage) never does \(action)"
    case .tooEarly(let stage, let action, let needs): "stage \(stage) does \(action) before \(needs)"
    case .backwardsNotAscending(let stage, let m):
      "stage \(stage) does B\(m) after a later microbatch: gradients would be summed in another order"
    case .orderMismatch(let stage, let sends, let receiver, let receives):
      "stage \(stage) sends \(sends) but stage \(receiver) receives \(receives)"
    case .deadlock(let waiting):
      "deadlock: " + waiting.map { "stage \($0.stage) waits at \($0.action)" }.joined(separator: ", ")
    }
  }
}
