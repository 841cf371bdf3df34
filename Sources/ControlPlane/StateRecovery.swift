import ClusterModel
import Wire

/// Chooses the newest state that can be put together from what is there.
///
/// Pure arithmetic of coverage: a state is there when each tensor has a holder of its parameters and one of its
/// moments. Which state is chosen, and from whom, changes only how much is computed again.
struct StateRecovery {
  var standings: [WorkerID: Standing]
  var tensorCount: Int
  /// No state beyond this one is used: nothing beyond is committed.
  var newest: Step
  /// Of the newest committed step, where known: what makes a state from sums.
  var norm: CommittedNorm?
  /// Workers that compute wrongly: nothing is taken from them that others have.
  var expelled: Set<WorkerID> = []
  /// False only where a fault is planted.
  var checksCoverage = true
  var checksAttempt = true

  struct Choice: Hashable {
    var step: Step
    var origin: StateOrigin
    /// For those whose sums make the state.
    var norm: CommittedNorm?
  }

  /// - Parameter checkpoint: the newest one; a state from memory must be at least as new.
  func choose(checkpoint: Step?) -> Choice {
    for step in candidates where step >= checkpoint ?? 0 {
      let all = holders(of: step)
      let trusted = all.filter { !expelled.contains($0.worker) }
      let holders = covers(trusted) ? trusted : all
      guard !checksCoverage || covers(holders) else { continue }
      return Choice(step: step, origin: .members(holders), norm: norm?.step == step ? norm : nil)
    }
    guard let checkpoint, checkpoint > 0 else { return Choice(step: 0, origin: .seed) }
    return Choice(step: checkpoint, origin: .checkpoint)
  }

  private func madeBySums(_ standing: Standing) -> Step? {
    guard var norm else { return nil }
    if !checksAttempt { norm.generation = standing.generation }
    return standing.madeBySums(norm)
  }

  /// Newest first.
  private var candidates: [Step] {
    var steps: Set<Step> = []
    for standing in standings.values {
      if let live = standing.live { steps.insert(live.step) }
      if let made = madeBySums(standing) { steps.insert(made) }
      for copy in standing.copies { steps.insert(copy.step) }
    }
    return steps.filter { $0 <= newest }.sorted(by: >)
  }

  /// Who has what of a state, by worker.
  private func holders(of step: Step) -> [StateHolding] {
    standings.keys.sorted().compactMap { worker in
      guard let standing = standings[worker] else { return nil }
      var parameters: [Range<Int>] = []
      var moments: [Range<Int>] = []
      if let live = standing.live {
        if live.step == step {
          parameters += live.parameters
          moments += live.moments
        } else if madeBySums(standing) == step {
          // Its own tensors it can bring forward; those of others it has only as they were.
          parameters += live.moments
          moments += live.moments
        }
      }
      for copy in standing.copies where copy.step == step {
        parameters += copy.parameters
        moments += copy.moments
      }
      guard !parameters.isEmpty || !moments.isEmpty else { return nil }
      return StateHolding(
        worker: worker, parameters: StateTransfer.union(parameters), moments: StateTransfer.union(moments))
    }
  }

  private func covers(_ holders: [StateHolding]) -> Bool {
    StateTransfer.union(holders.flatMap(\.parameters)) == [0..<tensorCount]
      && StateTransfer.union(holders.flatMap(\.moments)) == [0..<tensorCount]
  }
}

extension CommittedNorm {
  /// What follows from a record.
  public init(_ record: StepRecord) {
    self.init(step: record.step + 1, sumOfSquares: record.gradientSumOfSquares, generation: record.generation)
  }
}
