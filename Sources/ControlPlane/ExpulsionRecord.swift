import ClusterModel

/// A worker that computes wrongly: it is planned with no more, and let go as soon as others hold what it holds.
///
/// It is known by its number, which no other process is ever given.
public struct ExpulsionRecord: Hashable, Sendable, Codable {
  public var worker: WorkerID
  /// Empty when it was gone when it was found out.
  public var host: String
  /// The step by which it was found out.
  public var step: Step
  /// In which the coordinator decided so.
  public var generation: Generation
  public var reason: String

  public init(worker: WorkerID, host: String, step: Step, generation: Generation, reason: String) {
    self.worker = worker
    self.host = host
    self.step = step
    self.generation = generation
    self.reason = reason
  }
}
