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

  // MARK: Sums, tensor by tensor

  /// Begins the sums of a step. Every replica of the stage must sum the same steps.
  /// - Parameter partials: where the sums of each of `LeafTree.wholeSubtrees` of the replica's leaves will be, in
  ///   order and in flat layout; their contents are used up.
  /// - Throws: ``CollectiveError``
  public func begin(step: Step, partials: [(node: Range<Int>, gradient: Tensor)]) throws {
    try reduction.begin(step: step, partials: partials)
  }

  /// The partial sums of these tensors are final. Sends what can be sent and adds what has arrived, without
  /// waiting for anybody; each tensor is finished once.
  /// - Throws: the link's or the device's error.
  public func finished(tensors: Range<Int>) throws { try reduction.finished(tensors: tensors) }

  /// Waits for the other replicas' parts.
  /// - Returns: which of the partials now holds the whole sums of the tensors that this replica owns; what it
  ///   holds of others is undefined.
  /// - Throws: the link's or the device's error.
  public func complete() throws -> Int { try reduction.complete() }

  // MARK: Parameters, bucket by bucket

  /// The order in which owned tensors should be updated: by round, tensors or parts of them.
  package private(set) lazy var updateRounds: [[Bucket.Member]] = reduction.updateRounds

  /// Begins to bring the owners' updated tensors to all replicas.
  ///
  /// They must not change again before all members have completed.
  /// - Parameter backups: of each owner, the replica that updates its tensors as well and needs them from nobody.
  package func beginGather(step: Step, backups: [Int?] = []) { reduction.beginGather(step: step, backups: backups) }

  /// The owned tensors of a round are updated in `values`: sends them, and takes what has arrived of others.
  /// - Parameter taken: called with each tensor, or part of one, that is new in `values`.
  /// - Throws: the link's or the device's error.
  package func sendUpdated(round: Int, values: Tensor, taken: (Bucket.Member) throws -> Void) throws {
    try reduction.sendUpdated(round: round, values: values, taken: taken)
  }

  /// Waits for all tensors that others have updated.
  /// - Throws: the link's or the device's error.
  package func completeGather(values: Tensor, taken: (Bucket.Member) throws -> Void) throws {
    try reduction.completeGather(values: values, taken: taken)
  }

  // MARK: Whole steps

  /// Completes the sums of a step for the tensors that this replica owns, all at once, in tensors of their own.
  /// - Parameter results: a flat float32 tensor for each owned tensor, in order of the tensor.
  /// - Throws: ``CollectiveError``, or the link's or the device's error.
  public func reduce(step: Step, partials: [(node: Range<Int>, gradient: Tensor)], into results: [Tensor]) throws {
    try reduction.reduce(step: step, partials: partials, into: results)
  }

  /// Sums all tensors for all replicas, in place.
  /// - Parameter partials: as of ``begin(step:partials:)``.
  /// - Returns: which of the partials holds the sums; what the others hold is undefined.
  /// - Throws: ``CollectiveError``, or the link's or the device's error.
  @discardableResult
  public func allReduce(step: Step, partials: [(node: Range<Int>, gradient: Tensor)]) throws -> Int {
    try reduction.allReduce(step: step, partials: partials)
  }

  /// Brings the owners' updated tensors to all replicas, in the stage's flat parameters.
  /// - Throws: the link's or the device's error.
  public func gather(step: Step, values: Tensor) throws {
    try reduction.gather(step: step, values: values)
  }
}
