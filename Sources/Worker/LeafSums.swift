import ClusterModel
import Compute

/// The sums of a replica's leaves, added along the leaf tree as leaves finish.
///
/// Leaves finish in ascending order, so the unfinished part is a stack: a leaf that is the right half of a
/// node is added to the left half below it, and the sum may be a right half again. At most log2(leaves) + 1
/// gradients live at a time.
package struct LeafSums {
  private let tree: LeafTree
  package private(set) var finished: [(node: Range<Int>, gradient: Tensor)] = []
  private var pool: [Tensor] = []
  private let make: () throws -> Tensor

  /// - Parameter make: allocates one flat gradient of the stage.
  package init(leaves: Int, make: @escaping () throws -> Tensor) {
    tree = LeafTree(leaves: leaves)
    self.make = make
  }

  /// A zeroed gradient to accumulate the next leaf into.
  package mutating func begin(on device: any Device) throws -> Tensor {
    let gradient = try pool.popLast() ?? make()
    device.fill(gradient, with: 0)
    return gradient
  }

  package mutating func finish(leaf: Int, gradient: Tensor, on device: any Device) {
    var node = leaf..<leaf + 1
    var sum = gradient
    while let left = finished.last, tree.areSiblings(left.node, node) {
      device.add(sum, to: left.gradient)
      pool.append(sum)
      node = left.node.lowerBound..<node.upperBound
      sum = left.gradient
      finished.removeLast()
    }
    finished.append((node, sum))
  }

  /// Gives the finished sums back once they are used.
  package mutating func reset() {
    pool += finished.map(\.gradient)
    finished = []
  }
}
