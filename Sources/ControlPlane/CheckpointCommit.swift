import ClusterModel
import Wire

/// At most one checkpoint on its way to its manifest; a second one waits for its turn.
public struct CheckpointCommit: Hashable, Sendable {
  struct InFlight: Hashable, Sendable {
    var step: Step
    var workers: Set<WorkerID>
    var parts: [WorkerID: CheckpointPart] = [:]
    var failures: [WorkerID: String] = [:]
    /// The manifest is being written.
    var isCommitting = false
    /// When the workers were told to write it.
    var beganTick: UInt64
    var isAnswered: Bool { parts.count + failures.count == workers.count }
  }
  private(set) var inFlight: InFlight?
  /// The newest state that a resume can start from; nil before the first manifest.
  public private(set) var newest: Step?
  /// One became due while another was in flight.
  private(set) var isOverdue = false
  private(set) var failuresInARow = 0
  /// Of the last one that failed.
  private(set) var lastFailure: String?

  /// Checkpoints of states that are being recomputed.
  private let saved: Set<Step>

  init(newest: Step?, saved: Set<Step> = []) {
    self.newest = newest
    self.saved = saved
  }

  func isSaved(_ step: Step) -> Bool { saved.contains(step) }

  /// The run has reached a state; when its checkpoint is there already, that is the newest.
  mutating func reached(_ step: Step) {
    if saved.contains(step) { newest = step }
  }

  public var stepInFlight: Step? { inFlight?.step }
  var isCommitting: Bool { inFlight?.isCommitting ?? false }

  mutating func postpone() { isOverdue = true }

  /// - Precondition: none is in flight.
  mutating func begin(step: Step, workers: [WorkerID], now: UInt64) {
    precondition(inFlight == nil, "one checkpoint at a time")
    inFlight = InFlight(step: step, workers: Set(workers), beganTick: now)
    isOverdue = false
  }

  /// Gives up a checkpoint whose workers are no longer all there; a manifest that is being written goes on.
  /// - Returns: the step, when there was one.
  mutating func abandon() -> Step? {
    guard let flight = inFlight, !flight.isCommitting else { return nil }
    inFlight = nil
    isOverdue = true
    return flight.step
  }

  /// Whether the part of a worker is missing.
  func awaits(_ worker: WorkerID) -> Bool { inFlight.map { expects(step: $0.step, from: worker) } ?? false }

  /// The first worker that has not answered though the checkpoint began more than `ticks` ago.
  func late(now: UInt64, ticks: UInt64) -> (worker: WorkerID, step: Step)? {
    guard let flight = inFlight, !flight.isCommitting, now - flight.beganTick > ticks else { return nil }
    let missing = flight.workers.filter { flight.parts[$0] == nil && flight.failures[$0] == nil }
    return missing.min().map { ($0, flight.step) }
  }

  /// False when the part is not expected: another step, a stranger, a repetition.
  mutating func accept(_ part: CheckpointPart, from worker: WorkerID) -> Bool {
    guard expects(step: part.step, from: worker) else { return false }
    inFlight?.parts[worker] = part
    return true
  }
  mutating func acceptFailure(step: Step, reason: String, from worker: WorkerID) -> Bool {
    guard expects(step: step, from: worker) else { return false }
    inFlight?.failures[worker] = reason
    return true
  }
  private func expects(step: Step, from worker: WorkerID) -> Bool {
    guard let inFlight, inFlight.step == step, inFlight.workers.contains(worker), !inFlight.isCommitting else {
      return false
    }
    return inFlight.parts[worker] == nil && inFlight.failures[worker] == nil
  }

  enum Decision: Hashable {
    case wait
    case commit([CheckpointPart])
    /// All workers have answered, so nobody writes any more.
    case abandon(Step, reason: String)
  }

  /// What to do now that all steps below `committed` are in the journal: a manifest never precedes its step.
  mutating func decide(committed: Step) -> Decision {
    guard let flight = inFlight, !flight.isCommitting, flight.isAnswered, flight.step <= committed else { return .wait }
    if let (worker, reason) = flight.failures.min(by: { $0.key < $1.key }) {
      return .abandon(flight.step, reason: "\(worker): \(reason)")
    }
    let parts = flight.workers.sorted().compactMap { flight.parts[$0] }
    if let fault = Self.fault(in: parts) { return .abandon(flight.step, reason: fault) }
    inFlight?.isCommitting = true
    return .commit(parts)
  }

  private static func fault(in parts: [CheckpointPart]) -> String? {
    var fileOf: [String: String] = [:]
    var files: Set<String> = []
    for part in parts {
      guard files.insert(part.file).inserted else { return "two workers wrote \(part.file)" }
      for tensor in part.tensors {
        if let other = fileOf.updateValue(part.file, forKey: tensor.path) {
          return "tensor \(tensor.path) is in both \(other) and \(part.file)"
        }
      }
    }
    return fileOf.isEmpty ? "the parts hold no tensors" : nil
  }

  /// False when no such commit is under way.
  mutating func committed(_ step: Step) -> Bool {
    guard let flight = inFlight, flight.step == step, flight.isCommitting else { return false }
    inFlight = nil
    newest = step
    failuresInARow = 0
    return true
  }
  mutating func failed(_ step: Step, _ reason: String) -> Bool {
    guard let flight = inFlight, flight.step == step else { return false }
    inFlight = nil
    lastFailure = reason
    failuresInARow += 1
    return true
  }
}
