import ClusterModel

/// Samples that no step consumes, and why.
///
/// A bad step is found before anything of it is applied: the state before it is intact, and the step is computed
/// anew from the samples after the range. The record is durable before that begins, so that every replay agrees.
public struct SkipRecord: Hashable, Sendable, Codable {
  /// Positions of the sample stream; they begin where the first step that is not committed would begin.
  public var samples: Range<UInt64>
  /// In which the coordinator decided so.
  public var generation: Generation
  public var reason: String

  public init(samples: Range<UInt64>, generation: Generation, reason: String) {
    self.samples = samples
    self.generation = generation
    self.reason = reason
  }
}
