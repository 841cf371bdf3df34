/// One thing that a stage does. Numbers are ordinals of the replica's own microbatches, 0 ..< n, whatever
/// their indices in the step are.
public enum ScheduleAction: Hashable, Sendable, Codable {
  /// Wait for the previous stage's output and put it into the microbatch's slot.
  case receiveActivation(Int)
  /// Forward pass; what the backward pass needs stays in the slot.
  case forward(Int)
  /// Hand the output to the next stage. The bytes are copied out, so the slot may change after it.
  case sendActivation(Int)
  /// Wait for the gradient of the output.
  case receiveGradient(Int)
  /// Backward pass; on the last stage with heads and losses.
  case backward(Int)
  /// Hand the gradient of the input to the previous stage.
  case sendGradient(Int)
  /// Forward pass that keeps nothing; on the last stage with losses.
  case evaluate(Int)
  /// Complete the sums of the gradients over the replicas and report.
  case reduce
  /// Wait for the coordinator's word, apply the optimizer, gather the parameters.
  case update

  /// The microbatch that the action is about.
  public var microbatch: Int? {
    switch self {
    case .receiveActivation(let m), .forward(let m), .sendActivation(let m), .receiveGradient(let m), .backward(let m),
      .sendGradient(let m), .evaluate(let m):
      m
    case .reduce, .update: nil
    }
  }
}

extension ScheduleAction: CustomStringConvertible {
  public var description: String {
    switch self {
    case .receiveActivation(let m): "recvA\(m)"
    case .forward(let m): "F\(m)"
    case .sendActivation(let m): "sendA\(m)"
    case .receiveGradient(let m): "recvG\(m)"
    case .backward(let m): "B\(m)"
    case .sendGradient(let m): "sendG\(m)"
    case .evaluate(let m): "E\(m)"
    case .reduce: "reduce"
    case .update: "update"
    }
  }
}
