import ClusterModel

/// A worker as status shows it.
public struct WorkerView: Hashable, Sendable {
  public var worker: WorkerID
  public var host: String
  public var rank: Int?
  public var replica: Int?
  public var stage: Int?
  /// joined, asked, preparing, ready, working, waiting, spare, leaving, suspected.
  public var state: String
  /// What the worker said it was doing.
  public var phase: String
  public var microbatchesPerSecond: Double
  public var memoryBytes: UInt64
  public var memoryLimitBytes: UInt64
}

extension CoordinatorMachine {
  /// The newest state of which each worker's part is in another one's memory, too.
  public var copiedStep: Step? { state.copies.complete }

  /// assembling, regrouping, preparing, evaluating, training, draining, saving, stopping or the outcome's kind.
  public var phaseName: String {
    switch state.phase {
    case .assembling: "assembling"
    case .regrouping: "regrouping"
    case .preparing: "preparing"
    case .evaluating: state.drainReason == nil ? "evaluating" : "draining"
    case .stepping: state.drainReason == nil ? "training" : "draining"
    case .settling: "saving"
    case .stopping: "stopping"
    case .finished(let outcome): outcome.kind.rawValue
    }
  }

  /// All workers: those with a place in rank order, then the others by ID.
  public var workerViews: [WorkerView] {
    let stages = state.plan?.stageCount ?? 1
    let views = state.membership.sorted.map { member in
      let place = state.places[member.worker]
      return WorkerView(
        worker: member.worker, host: member.hello.host, rank: place.map { $0.replica * stages + $0.stage },
        replica: place?.replica, stage: place?.stage, state: stateName(member.worker, hasPlace: place != nil),
        phase: member.phase, microbatchesPerSecond: member.microbatchesPerSecond, memoryBytes: member.memoryBytes,
        memoryLimitBytes: member.hello.memoryLimitBytes)
    }
    return views.sorted { ($0.rank ?? .max, $0.worker) < ($1.rank ?? .max, $1.worker) }
  }

  private func stateName(_ worker: WorkerID, hasPlace: Bool) -> String {
    if let member = state.membership[worker], isSuspected(member) { return "suspected" }
    if state.leavers[worker] != nil { return "leaving" }
    if case .regrouping(let regrouping) = state.phase { return regrouping.pending.contains(worker) ? "asked" : "ready" }
    guard state.plan != nil else { return "joined" }
    guard hasPlace else { return "spare" }
    switch state.phase {
    case .preparing(let ready): return ready.contains(worker) ? "ready" : "preparing"
    case .evaluating(let barrier): return barrier.owes(worker) ? "working" : "waiting"
    case .stepping(let barrier): return barrier.owes(worker) ? "working" : "waiting"
    case .assembling, .regrouping, .settling, .stopping, .finished: return "waiting"
    }
  }
}
