/// Which replica of a stage keeps the optimizer state of which tensor and sums its gradient.
public enum TensorOwnership {
  /// Largest tensors first, each to the replica with the fewest elements so far; the lower index wins ties.
  /// - Parameter sizes: elements of each tensor of the stage.
  /// - Returns: of each tensor, the replica.
  /// - Precondition: `replicas` is positive.
  public static func assign(sizes: [Int], replicas: Int) -> [Int] {
    precondition(replicas > 0)
    var owners = [Int](repeating: 0, count: sizes.count)
    var loads = [Int](repeating: 0, count: replicas)
    let largestFirst = sizes.indices.sorted { a, b in sizes[a] == sizes[b] ? a < b : sizes[a] > sizes[b] }
    for tensor in largestFirst {
      var least = 0
      for replica in 1..<max(replicas, 1) where loads[replica] < loads[least] { least = replica }
      owners[tensor] = least
      loads[least] += sizes[tensor]
    }
    return owners
  }

  /// The replica that keeps the same state as an owner, computed from the same sums: when either goes, nothing is
  /// lost. Nil for a single replica.
  public static func backup(of owner: Int, replicas: Int) -> Int? {
    replicas > 1 ? (owner + 1) % replicas : nil
  }
}
