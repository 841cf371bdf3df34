import ClusterModel
import Collectives
import Compute
import Foundation
import Optimizers
import TransfusionModel
import Wire

extension StageExecutor {
  /// Applies the optimizer to what this worker owns and backs and gathers the rest: the stage then holds state step + 1.
  ///
  /// Bucket by bucket: each leaves for the other replicas as soon as it is updated, and theirs are taken as they come.
  /// When a replica cannot be reached, what this worker owns is brought to state step + 1 all the same.
  func update(_ update: Update) throws -> Updated {
    progress.enter("update", step: update.step)
    guard update.step == heldStep else {
      throw WorkerError.step(reason: "asked to update step \(update.step) with the state of step \(heldStep)")
    }
    // Of two replicas each has all sums, as owner or as backup.
    let hasAll = owned.count + backed.count == stage.parameters.count
    try timed(\.update, .update, step: update.step) {
      let replicas = plan.replicaCount
      group.beginGather(
        step: update.step, backups: (0..<replicas).map { TensorOwnership.backup(of: $0, replicas: replicas) })
      try applyAll(update) { round in
        if hasAll { return }
        try trace.measure(.gather, step: update.step) {
          try group.sendUpdated(round: round, values: stage.values) { refresh($0) }
        }
      }
      progress.enter("gather", step: update.step)
      if !hasAll {
        try trace.measure(.gather, step: update.step) {
          try group.completeGather(values: stage.values) { refresh($0) }
        }
      }
      try device.wait()
    }
    isGathered = true
    progress.enter("barrier", step: update.step)
    return Updated(step: update.step, phases: phases, memoryBytes: progress.memoryBytes)
  }

  /// Brings what this worker owns to the next state, without anybody else.
  func updateOwned(_ update: Update) throws {
    try applyAll(update) { _ in }
    try device.wait()
  }

  /// - Parameter applied: called after each round; the first error ends the calls, not the update.
  private func applyAll(_ update: Update, applied: (_ round: Int) throws -> Void) throws {
    guard let gradient = summed else { throw WorkerError.step(reason: "asked to update before the sums were complete") }
    let scale = ClipScale.scale(sumOfSquares: update.gradientSumOfSquares, limit: configuration.optimizer.clipNorm)
    for tensor in backed {
      let whole = TensorRange(tensor: tensor.index, start: 0, count: count(of: tensor), moments: tensor.offset)
      apply(whole, gradient, step: update.step, scale: scale)
    }
    var failure: (any Error)?
    for (round, members) in group.updateRounds.enumerated() {
      for member in members {
        let part = TensorRange(
          tensor: member.tensor, start: member.tensorOffset, count: member.count,
          moments: owned[member.ownedPosition].offset + member.tensorOffset)
        apply(part, gradient, step: update.step, scale: scale)
      }
      guard failure == nil else { continue }
      do { try applied(round) } catch { failure = error }
    }
    summed = nil
    heldStep = update.step + 1
    isGathered = false
    if let failure { throw failure }
  }

  /// Some elements of one of the stage's tensors.
  private struct TensorRange {
    var tensor: Int
    /// First element in the tensor.
    var start: Int
    var count: Int
    /// First element in the moments' flat tensors.
    var moments: Int
  }

  private func apply(_ range: TensorRange, _ gradient: Tensor, step: Step, scale: Float) {
    let parameter = stage.parameters[range.tensor]
    let flat = parameter.offset + range.start
    device.adamW(
      stage.values.slice(at: flat, shape: [range.count]),
      gradient: gradient.slice(at: flat, shape: [range.count]),
      firstMoment: firstMoments.slice(at: range.moments, shape: [range.count]),
      secondMoment: secondMoments.slice(at: range.moments, shape: [range.count]),
      computeCopy: computeCopy(of: range.tensor, from: range.start, count: range.count),
      configuration.adamW.step(
        step, learningRate: configuration.learningRate.rate(step), gradientScale: scale,
        decays: parameter.specification.decays))
  }

  /// Brings the compute-type copy of what another replica has updated up to date.
  private func refresh(_ member: Bucket.Member) {
    guard let copy = computeCopy(of: member.tensor, from: member.tensorOffset, count: member.count) else { return }
    device.copy(stage.values.slice(at: member.flatOffset, shape: [member.count]), to: copy)
  }

  private func computeCopy(of tensor: Int, from start: Int, count: Int) -> Tensor? {
    let parameter = stage.parameters[tensor]
    return stage.computeCopy(of: parameter)?.reshaped([parameter.specification.count]).slice(at: start, shape: [count])
  }
}
