import ClusterModel

/// Some tensors of a state, by their place in the model's canonical order: ascending ranges with gaps between them.
public struct HeldState: Hashable, Sendable {
  /// The state after so many steps.
  public var step: Step
  /// Tensors whose parameters are held.
  public var parameters: [Range<Int>]
  /// Tensors whose two moments are held.
  public var moments: [Range<Int>]
  public init(step: Step, parameters: [Range<Int>], moments: [Range<Int>]) {
    self.step = step
    self.parameters = parameters
    self.moments = moments
  }
}

/// What a worker can give a new generation.
public struct Standing: Hashable, Sendable {
  /// The state that it trains; nil when it holds none.
  public var live: HeldState?
  /// The sums of step `live.step` are complete for the tensors whose moments it holds: told the norm, it can make
  /// their next state without anybody else.
  public var hasSums: Bool
  /// Copies in its memory, its own and its buddies'.
  public var copies: [HeldState]
  /// In which the live state was prepared and its sums were made: sums of samples that were skipped since are of no use.
  public var generation: Generation
  public init(
    live: HeldState? = nil, hasSums: Bool = false, copies: [HeldState] = [], generation: Generation = Generation(0)
  ) {
    self.generation = generation
    self.live = live
    self.hasSums = hasSums
    self.copies = copies
  }

  /// The state that its sums make of its live one; nil where they make none that may be used. Coordinator and worker ask
  /// the same: what one does not count on the other must not do, or what else it holds of that state would be hidden by it.
  public func madeBySums(_ norm: CommittedNorm) -> Step? {
    guard hasSums, let live, live.step + 1 == norm.step else { return nil }
    // Another generation may have computed the step badly, or from samples that were skipped.
    return generation == norm.generation ? norm.step : nil
  }
}

/// What the update that makes a committed state needs.
public struct CommittedNorm: Hashable, Sendable {
  /// The state that the update makes.
  public var step: Step
  /// Of the whole gradient.
  public var sumOfSquares: Double
  /// In which the step came out as it is committed: only the sums of that attempt make the state.
  public var generation: Generation
  public init(step: Step, sumOfSquares: Double, generation: Generation) {
    self.step = step
    self.sumOfSquares = sumOfSquares
    self.generation = generation
  }
}

/// Where the state that a generation begins with comes from. Which of them it is changes only how long it takes.
public enum StateOrigin: Hashable, Sendable {
  /// Parameters from the seed, moments zero.
  case seed
  case checkpoint
  /// Worker to worker: each tensor from a holder that all agree on (`StateTransfer`).
  case members([StateHolding])

  public typealias Holder = StateHolding
}

/// A sign of life, and what the coordinator still waits for: an answer that got lost is sent again.
public struct CoordinatorHeartbeat: Hashable, Sendable {
  /// The order whose answer is missing; 0 when none is.
  public var awaitedOrder: UInt64
  /// The checkpoint whose part is missing.
  public var awaitedPart: Step?
  public init(awaitedOrder: UInt64 = 0, awaitedPart: Step? = nil) {
    self.awaitedOrder = awaitedOrder
    self.awaitedPart = awaitedPart
  }
}
