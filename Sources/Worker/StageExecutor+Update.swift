import ClusterModel
import Collectives
import Compute
import Foundation
import Optimizers
import TransfusionModel
import Wire

extension StageExecutor {
  /// Applies the optimizer to what this worker owns and gathers the rest: the stage then holds state step + 1.
  ///
  /// Bucket by bucket: each leaves for the other replicas as soon as it is updated, and theirs are taken as they come.
  func update(_ update: Update) throws -> Updated {
    progress.enter("update", step: update.step)
    guard let gradient = summed else { throw WorkerError.step(reason: "asked to update before the sums were complete") }
    try timed(\.update, .update, step: update.step) {
      let scale = ClipScale.scale(sumOfSquares: update.gradientSumOfSquares, limit: configuration.optimizer.clipNorm)
      let isAlone = plan.replicaCount == 1
      group.beginGather(step: update.step)
      for (round, members) in group.updateRounds.enumerated() {
        for member in members { apply(member, gradient, step: update.step, scale: scale) }
        if isAlone { continue }
        try trace.measure(.gather, step: update.step) {
          try group.sendUpdated(round: round, values: stage.values) { refresh($0) }
        }
      }
      progress.enter("gather", step: update.step)
      if !isAlone {
        try trace.measure(.gather, step: update.step) {
          try group.completeGather(values: stage.values) { refresh($0) }
        }
      }
      try device.wait()
    }
    summed = nil
    progress.enter("barrier", step: update.step)
    return Updated(step: update.step, phases: phases, memoryBytes: UInt64(ProcessMemory.residentBytes))
  }

  private func apply(_ member: Bucket.Member, _ gradient: Tensor, step: Step, scale: Float) {
    let parameter = stage.parameters[member.tensor]
    let moments = owned[member.ownedPosition].offset + member.tensorOffset
    device.adamW(
      stage.values.slice(at: member.flatOffset, shape: [member.count]),
      gradient: gradient.slice(at: member.flatOffset, shape: [member.count]),
      firstMoment: firstMoments.slice(at: moments, shape: [member.count]),
      secondMoment: secondMoments.slice(at: moments, shape: [member.count]),
      computeCopy: computeCopy(of: member),
      configuration.adamW.step(
        step, learningRate: configuration.learningRate.rate(step), gradientScale: scale,
        decays: parameter.specification.decays))
  }

  /// Brings the compute-type copy of what another replica has updated up to date.
  private func refresh(_ member: Bucket.Member) {
    guard let copy = computeCopy(of: member) else { return }
    device.copy(stage.values.slice(at: member.flatOffset, shape: [member.count]), to: copy)
  }

  private func computeCopy(of member: Bucket.Member) -> Tensor? {
    let parameter = stage.parameters[member.tensor]
    return stage.computeCopy(of: parameter)?.reshaped([parameter.specification.count])
      .slice(at: member.tensorOffset, shape: [member.count])
  }
}
