import ClusterModel
import Wire

/// Why a tensor did not cross. After any of these the generation's step cannot be trusted to complete.
public enum DataPlaneError: Error, Hashable, Sendable, CustomStringConvertible {
  /// `send` or `receive` before the first `enter`.
  case noGeneration
  /// A generation that is not newer than the present one, or a call that a newer one overtook.
  case superseded(by: Generation)
  case unknownPeer(WorkerID, Generation)
  /// `interrupt(reason:)` was called.
  case interrupted(reason: String)
  case timedOut(key: FrameKey, from: WorkerID, seconds: Double, receivedBytes: Int, expectedBytes: Int)
  case corrupted(key: FrameKey, from: WorkerID, reason: String)
  case sizeMismatch(key: FrameKey, from: WorkerID, expectedBytes: Int, sentBytes: Int)
  case elementMismatch(key: FrameKey, from: WorkerID, expected: FrameElement, sent: FrameElement)
  /// Two threads wait for one frame.
  case alreadyAwaited(key: FrameKey, from: WorkerID)
  case sendQueueFull(queuedBytes: Int, limitBytes: Int)
  case transport(TransportError)
  case closed

  public var description: String {
    switch self {
    case .noGeneration: "the data plane has entered no generation yet; a plan must be prepared first"
    case .superseded(let generation): "overtaken by \(generation); take part in that one"
    case .unknownPeer(let worker, let generation): "\(worker) has no part in \(generation)"
    case .interrupted(let reason): "interrupted: \(reason)"
    case .timedOut(let key, let worker, let seconds, let received, let expected):
      "waited \(seconds) s for \(key) from \(worker) in vain (\(received) of \(expected) bytes came); "
        + "check that \(worker) is alive and its data address can be reached from here"
    case .corrupted(let key, let worker, let reason):
      "\(key) from \(worker) arrived damaged (\(reason)); resume from the last checkpoint, and check the network if it happens again"
    case .sizeMismatch(let key, let worker, let expected, let sent):
      "\(key) from \(worker) has \(sent) bytes where \(expected) were expected; all workers must run one configuration and version"
    case .elementMismatch(let key, let worker, let expected, let sent):
      "\(key) from \(worker) has \(sent) elements where \(expected) was expected; all workers must run one configuration and version"
    case .alreadyAwaited(let key, let worker): "\(key) from \(worker) is awaited by another thread already"
    case .sendQueueFull(let queued, let limit):
      "\(queued) bytes wait to be sent, the limit is \(limit); a peer takes nothing, check that it is alive"
    case .transport(let error): "\(error)"
    case .closed: "the data plane is closed"
    }
  }
}
