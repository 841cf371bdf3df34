import ClusterModel
import Compute

/// The replicas of one stage in one generation: sums their gradients to the owners of the tensors, and
/// gathers the updated parameters.
///
/// Confined to the thread that owns the device. The sums have the same bits for every division of the leaves
/// among replicas (design, section 1).
public final class ReplicaGroup {
  public typealias TensorSpan = Collectives.TensorSpan
  private let reduction: TreeReduction<DeviceMemory>

  /// - Parameters:
  ///   - leaves: leaves of the step.
  ///   - replicaLeaves: the leaves of each replica, in order, without gaps.
  ///   - members: the worker of each replica at this stage.
  ///   - replica: which of them this is.
  ///   - tensors: where the stage's tensors lie in its flat float32 tensors.
  ///   - owners: of each tensor the replica that owns it (``TensorOwnership``).
  /// - Throws: ``CollectiveError/invalidGroup(reason:)``, `DeviceError` when scratch does not fit.
  public init(
    link: any Link, device: any Device, leaves: Int, replicaLeaves: [Range<Int>], members: [WorkerID], replica: Int,
    stage: Int, tensors: [TensorSpan], owners: [Int]
  ) throws {
    reduction = try TreeReduction(
      memory: DeviceMemory(device: device), link: link, leaves: leaves, replicaLeaves: replicaLeaves,
      members: members, replica: replica, stage: stage, spans: tensors, owners: owners)
  }

  /// Completes the sums of a step for the tensors that this replica owns.
  ///
  /// Every replica of the stage must call it for the same step.
  /// - Parameters:
  ///   - partials: flat gradients, one for each of `LeafTree.wholeSubtrees` of the replica's leaves, in
  ///     order; their contents are used up.
  ///   - results: a flat float32 tensor for each owned tensor, in order of the tensor.
  /// - Throws: ``CollectiveError``, or the link's or the device's error.
  public func reduce(step: Step, partials: [(node: Range<Int>, gradient: Tensor)], into results: [Tensor]) throws {
    try reduction.reduce(step: step, partials: partials, into: results)
  }

  /// Brings the owners' updated tensors to all replicas, in the stage's flat parameters.
  ///
  /// Every replica of the stage must call it for the same step.
  /// - Throws: the link's or the device's error.
  public func gather(step: Step, values: Tensor) throws {
    try reduction.gather(step: step, values: values)
  }
}
