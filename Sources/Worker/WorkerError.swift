import ClusterModel
import Transport

/// Why a worker cannot go on.
public enum WorkerError: Error, CustomStringConvertible {
  /// The coordinator does not answer; or connections end before both ends have agreed on keys.
  case unreachable(address: String, seconds: Double, failedHandshakes: Int)
  /// The coordinator's socket turned us away, before a word was said.
  case notLetIn(TransportError)
  /// The coordinator does not want this worker.
  case refused(reason: String)
  /// The coordinator fell silent while the run went on.
  case coordinatorLost(address: String, seconds: Double)
  /// The coordinator ended the run because it cannot go on.
  case stopped(reason: String)
  /// The data directory does not fit the configuration.
  case data(reason: String)
  /// A new generation has begun: what is being computed is of no use any more.
  case overtaken(by: Generation)
  /// A step failed on this worker.
  case step(reason: String)

  public var description: String {
    switch self {
    case .unreachable(let address, let seconds, let failed) where failed > 0:
      "nobody at \(address) agreed to talk within \(Int(seconds)) s, though \(failed) connections were made: either no "
        + "coordinator listens there, or its key is another than expected here (--coordinator-key), or this key has "
        + "too many connections already"
    case .notLetIn(let error): "\(error)"
    case .unreachable(let address, let seconds, _):
      "no coordinator answered at \(address) within \(Int(seconds)) s: is it running, and is the address right?"
    case .refused(let reason): "the coordinator refused this worker: \(reason)"
    case .coordinatorLost(let address, let seconds):
      "the coordinator at \(address) has been silent for \(Int(seconds)) s; start it again with the same command"
    case .stopped(let reason): "the coordinator stopped the run: \(reason)"
    case .data(let reason): "data: \(reason)"
    case .overtaken(let generation): "overtaken by \(generation)"
    case .step(let reason): reason
    }
  }
}
