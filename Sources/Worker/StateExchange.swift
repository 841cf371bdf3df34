import ClusterModel
import Collectives
import Compute
import Foundation
import TransfusionModel
import Transport
import Wire

/// Who needs what of a state under a plan; every worker computes the same.
enum StateNeeds {
  /// - Parameter withBackups: count moments that a worker keeps for their owner, too.
  static func needs(of plan: Plan, _ model: ModelConfiguration, withBackups: Bool) -> [StateHolding] {
    let parameters = model.parameters
    return (0..<plan.stageCount).flatMap { stage -> [StateHolding] in
      let units = plan.stageUnits[stage]
      let tensors = parameters.indices.filter { units.contains(parameters[$0].unit) }
      guard let first = tensors.first, let last = tensors.last else { return [] }
      let owners = TensorOwnership.assign(sizes: tensors.map { parameters[$0].count }, replicas: plan.replicaCount)
      return (0..<plan.replicaCount).map { replica in
        StateHolding(
          worker: plan.places[replica][stage], parameters: [first..<last + 1],
          moments: StateTransfer.union(
            zip(tensors, owners).filter { _, owner in
              owner == replica
                || withBackups && TensorOwnership.backup(of: owner, replicas: plan.replicaCount) == replica
            }.map { $0.0..<$0.0 + 1 }))
      }
    }
  }
}

/// Tensors of one state on their way between the workers of a new generation.
///
/// A thread of its own sends while the compute thread receives, so that no order of sending and receiving can make
/// two workers wait for each other.
final class StateExchange: Sendable {
  private let step: Step
  private let me: WorkerID
  private let pieces: [StateTransfer.Piece]
  private let link: any Link
  /// Where what this worker gives lies.
  private let sources: [StateSnapshot.Key: (snapshot: StateSnapshot, entry: StateSnapshot.Entry)]
  private let sent = DispatchSemaphore(value: 0)
  // Safe because the sender writes it before it signals, and others read it after they have waited.
  nonisolated(unsafe) private var failure: (any Error)?

  /// Begins to send.
  /// - Parameter snapshots: of state `step`, with all that this worker gives or keeps.
  /// - Throws: ``WorkerError/step(reason:)`` when something that it is to give is not there.
  init(step: Step, me: WorkerID, pieces: [StateTransfer.Piece], from snapshots: [StateSnapshot], link: any Link) throws
  {
    self.step = step
    self.me = me
    self.pieces = pieces
    self.link = link
    var sources: [StateSnapshot.Key: (snapshot: StateSnapshot, entry: StateSnapshot.Entry)] = [:]
    for snapshot in snapshots where snapshot.step == step {
      for entry in snapshot.entries { sources[entry.key] = (snapshot, entry) }
    }
    for piece in pieces where piece.from == me {
      guard sources[StateSnapshot.Key(tensor: piece.tensor, part: piece.part)] != nil else {
        throw WorkerError.step(
          reason: "asked for \(piece.part) of tensor \(piece.tensor) of step \(step), which is not here")
      }
    }
    self.sources = sources
    BackgroundThread.start("state") { [self] in
      do { try send() } catch { failure = error }
      sent.signal()
    }
  }

  private func key(_ piece: StateTransfer.Piece) -> FrameKey {
    FrameKey(kind: .state, step: step, microbatch: UInt32(piece.tensor), part: piece.part.rawValue)
  }

  private func send() throws {
    for piece in pieces where piece.from == me && piece.to != me {
      guard let (snapshot, entry) = sources[StateSnapshot.Key(tensor: piece.tensor, part: piece.part)] else { continue }
      try snapshot.lend(entry, as: key(piece), to: piece.to, link)
    }
  }

  /// Waits for all that this worker needs, and until what it gives is on its way.
  func receive(into executor: StageExecutor?, progress: WorkerProgress) throws {
    // Whatever happens, the sender has ended when this returns: it uses memory that others are to have next.
    defer { sent.wait() }
    if let executor {
      let wanted = Dictionary(
        pieces.filter { $0.to == me }.map { (StateSnapshot.Key(tensor: $0.tensor, part: $0.part), $0) }
      ) { first, _ in first }
      for (parameter, part, view) in executor.stateTensors {
        let key = StateSnapshot.Key(tensor: parameter.tensorIndex, part: part)
        guard let piece = wanted[key] else {
          throw WorkerError.step(reason: "nobody gives \(part) of tensor \(parameter.tensorIndex)")
        }
        progress.enter("loading", step: step)
        if piece.from == me, let (snapshot, entry) = sources[key] {
          executor.take(snapshot.bytes(of: entry), at: 0, of: view)
          continue
        }
        progress.enter("receive", step: step)
        try link.withReceived(
          self.key(piece), from: piece.from, byteCount: view.count * MemoryLayout<Float>.size
        ) { bytes, offset in executor.take(bytes, at: offset, of: view) }
      }
      try executor.stateIsComplete()
    }
    sent.wait()
    sent.signal()
    if let failure { throw failure }
  }
}
