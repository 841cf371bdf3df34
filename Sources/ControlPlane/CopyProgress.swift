import ClusterModel

/// How far the workers are with copying their states into each other's memory.
package struct CopyProgress: Hashable, Sendable {
  /// As many as workers keep: of an older state no full set is there any more.
  private static let pending = 2
  /// The newest state that is held twice: of which every worker with a place keeps its ward's copy.
  package private(set) var complete: Step?
  /// Who keeps its ward's copy of a state that is not complete yet.
  private var holders: [Step: Set<WorkerID>] = [:]

  package init() {}

  /// - Parameter workers: how many there are with a place.
  package mutating func accept(_ step: Step, from worker: WorkerID, of workers: Int) {
    guard step > complete ?? 0 else { return }
    holders[step, default: []].insert(worker)
    if holders[step]?.count == workers {
      complete = step
      holders = holders.filter { $0.key > step }
    } else if holders.count > Self.pending, let oldest = holders.keys.min() {
      holders[oldest] = nil
    }
  }
}
