import ClusterModel

/// Why a sum could not be begun; what goes wrong on the way is the link's or the device's error.
public enum CollectiveError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The partial sums are not the whole subtrees of the replica's leaves.
  case wrongPartials(step: Step, expected: [Range<Int>], given: [Range<Int>])
  /// There is not one result for each tensor that the replica owns.
  case wrongResults(step: Step, expected: Int, given: Int)
  case invalidGroup(reason: String)

  public var description: String {
    switch self {
    case .wrongPartials(let step, let expected, let given):
      "step \(step): the replica's leaves form the sums \(expected), given were \(given)"
    case .wrongResults(let step, let expected, let given):
      "step \(step): the replica owns \(expected) tensors, given were \(given) to hold their gradients"
    case .invalidGroup(let reason):
      "the replicas of the plan do not fit together: \(reason); the plan must be made anew"
    }
  }
}
