import ClusterModel

/// The workers that compute, in rank order, and the rank of each: one lookup for whatever a worker says, made once for
/// all steps of a generation.
struct Ranks: Hashable, Sendable {
  let workers: [WorkerID]
  private let rankOf: [WorkerID: Int]

  init(_ workers: [WorkerID] = []) {
    self.workers = workers
    rankOf = Dictionary(workers.enumerated().map { ($1, $0) }) { first, _ in first }
  }
  subscript(worker: WorkerID) -> Int? { rankOf[worker] }
}

/// One report of each rank.
struct Reports<Report: Hashable & Sendable>: Hashable, Sendable {
  let ranks: Ranks
  private var of: [Report?]
  private(set) var count = 0

  init(_ ranks: Ranks) {
    self.ranks = ranks
    of = Array(repeating: nil, count: ranks.workers.count)
  }

  var isComplete: Bool { count == of.count }
  func owes(_ worker: WorkerID) -> Bool { ranks[worker].map { of[$0] == nil } ?? false }
  /// - Returns: false for one that has reported, or computes nothing.
  mutating func accept(_ report: Report, from worker: WorkerID) -> Bool {
    guard let rank = ranks[worker], of[rank] == nil else { return false }
    of[rank] = report
    count += 1
    return true
  }

  /// Those that are there, in rank order.
  var present: [(worker: WorkerID, report: Report)] {
    zip(ranks.workers, of).compactMap { worker, report in report.map { (worker, $0) } }
  }
}
