import ClusterModel
import Compute

/// The sums of a replica's leaves, added along the leaf tree as leaves finish.
///
/// Leaves finish in ascending order, so the unfinished part is a stack: a leaf that is the right half of a
/// node is added to the left half below it, and the sum may be a right half again. ``LeafTree/mostSums(in:)`` says how
/// many gradients live at a time.
///
/// The last leaf of a step can be added tensor by tensor while its backward pass runs: ``sums(with:gradient:)`` says
/// where the sums will be, ``add(leaf:gradient:elements:on:)`` adds a part, ``settle(leaf:gradient:)`` ends it.
///
/// A gradient that is gone with the next forward pass does for every leaf that is added to another at once, and for the
/// last one of a step.
package struct LeafSums {
  private let tree: LeafTree
  package private(set) var finished: [(node: Range<Int>, gradient: Tensor)] = []
  private var pool: [Tensor] = []
  private let passing: Tensor?
  private let make: () throws -> Tensor

  /// - Parameters:
  ///   - passing: a flat gradient of the stage that the next forward pass overwrites; only for leaves of one microbatch.
  ///   - make: allocates one flat gradient of the stage.
  package init(leaves: Int, passing: Tensor? = nil, make: @escaping () throws -> Tensor) {
    tree = LeafTree(leaves: leaves)
    self.passing = passing
    self.make = make
  }

  /// A gradient of undefined content for the next leaf, whose first backward pass overwrites it.
  /// - Parameter isLast: no forward pass follows before the sums are used.
  package mutating func begin(leaf: Int, isLast: Bool) throws -> Tensor {
    if let passing, isLast || merges(of: leaf).count > 0 { return passing }
    return try pool.popLast() ?? make()
  }

  private func isPassing(_ gradient: Tensor) -> Bool { gradient.storage === passing?.storage }

  /// How many of the finished sums a leaf is added to, newest first, and the node that comes of it.
  private func merges(of leaf: Int) -> (count: Int, node: Range<Int>) {
    var node = leaf..<leaf + 1
    var count = 0
    for left in finished.reversed() {
      guard tree.areSiblings(left.node, node) else { break }
      node = left.node.lowerBound..<node.upperBound
      count += 1
    }
    return (count, node)
  }

  /// The sums as they will be once `leaf` is settled, whose own gradient is `gradient`.
  package func sums(with leaf: Int, gradient: Tensor) -> [(node: Range<Int>, gradient: Tensor)] {
    let (count, node) = merges(of: leaf)
    let kept = finished.dropLast(count)
    return kept + [(node, count == 0 ? gradient : finished[kept.count].gradient)]
  }

  /// Adds some elements of a leaf's gradient to their sums; each element once.
  package func add(leaf: Int, gradient: Tensor, elements: Range<Int>, on device: any Device) {
    var sum = gradient
    for left in finished.suffix(merges(of: leaf).count).reversed() {
      device.add(
        sum.slice(at: elements.lowerBound, shape: [elements.count]),
        to: left.gradient.slice(at: elements.lowerBound, shape: [elements.count]))
      sum = left.gradient
    }
  }

  /// Ends a leaf all of whose elements are added.
  package mutating func settle(leaf: Int, gradient: Tensor) {
    let sums = sums(with: leaf, gradient: gradient)
    let count = merges(of: leaf).count
    if count > 0 { giveBack(finished.suffix(count).dropFirst().map(\.gradient) + [gradient]) }
    finished = sums
  }

  /// A whole leaf at once.
  package mutating func finish(leaf: Int, gradient: Tensor, on device: any Device) {
    add(leaf: leaf, gradient: gradient, elements: 0..<gradient.count, on: device)
    settle(leaf: leaf, gradient: gradient)
  }

  /// Gives the finished sums back once they are used.
  package mutating func reset() {
    giveBack(finished.map(\.gradient))
    finished = []
  }

  private mutating func giveBack(_ gradients: [Tensor]) { pool += gradients.filter { !isPassing($0) } }
}
