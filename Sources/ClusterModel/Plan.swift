/// Who computes what in one generation: the mesh of replicas x stages, the cut of the model, the leaves.
///
/// A plan changes only how long a step takes. Which microbatches a step has, how they form leaves and in
/// which order everything is summed are in ``StepShape`` and never depend on it.
public struct Plan: Hashable, Sendable, Codable {
  /// The half-open range of model units of each stage, in order, without gaps.
  public var stageUnits: [Range<Int>]
  /// The half-open range of leaves of each replica, in order, without gaps.
  public var replicaLeaves: [Range<Int>]
  /// The worker at each place, `places[replica][stage]`.
  public var places: [[WorkerID]]
  /// Workers that are in the generation but have no place.
  public var spares: [WorkerID]
  public var schedule: ScheduleKind

  public var stageCount: Int { stageUnits.count }
  public var replicaCount: Int { replicaLeaves.count }

  public init(
    stageUnits: [Range<Int>], replicaLeaves: [Range<Int>], places: [[WorkerID]], spares: [WorkerID] = [],
    schedule: ScheduleKind
  ) {
    self.stageUnits = stageUnits
    self.replicaLeaves = replicaLeaves
    self.places = places
    self.spares = spares
    self.schedule = schedule
  }

  /// Replica and stage of a worker, or nil for a spare or a stranger.
  public func place(of worker: WorkerID) -> Place? {
    for (replica, row) in places.enumerated() {
      for (stage, member) in row.enumerated() where member == worker { return Place(replica: replica, stage: stage) }
    }
    return nil
  }
  /// Who keeps a copy of a placed worker's state in memory: the next in rank order; nil where there is no other.
  public func buddy(of worker: WorkerID) -> WorkerID? {
    let ranked = places.flatMap { $0 }
    guard ranked.count > 1, let rank = ranked.firstIndex(of: worker) else { return nil }
    return ranked[(rank + 1) % ranked.count]
  }
  /// Whose copy a placed worker keeps: the inverse of ``buddy(of:)``.
  public func ward(of worker: WorkerID) -> WorkerID? {
    let ranked = places.flatMap { $0 }
    guard ranked.count > 1, let rank = ranked.firstIndex(of: worker) else { return nil }
    return ranked[(rank + ranked.count - 1) % ranked.count]
  }
  /// Position in this generation: replica-major over the mesh.
  public func rank(of worker: WorkerID) -> Int? { place(of: worker).map { $0.replica * stageCount + $0.stage } }
}

public struct Place: Hashable, Sendable, Codable {
  public var replica: Int
  public var stage: Int
  public init(replica: Int, stage: Int) {
    self.replica = replica
    self.stage = stage
  }
}

public enum ScheduleKind: String, Hashable, Sendable, Codable, CaseIterable {
  case gpipe = "gpipe"
  case oneForwardOneBackward = "1f1b"
}

/// The part of a step that no plan may change: its microbatches and how they form leaves.
///
/// Step `s` (counted from 0: the step that makes state `s + 1`) has `microbatches` microbatches; leaf `l`
/// holds those in `microbatches(ofLeaf: l)`. Inside a leaf gradients accumulate in order of the index;
/// leaves add up along ``LeafTree``.
public struct StepShape: Hashable, Sendable, Codable {
  public var microbatches: Int
  public var leaves: Int
  /// - Precondition: `leaves` divides `microbatches`; both are positive.
  public init(microbatches: Int, leaves: Int) {
    precondition(microbatches > 0 && leaves > 0 && microbatches % leaves == 0)
    self.microbatches = microbatches
    self.leaves = leaves
  }
  public var microbatchesPerLeaf: Int { microbatches / leaves }
  public func microbatches(ofLeaf leaf: Int) -> Range<Int> { microbatches(ofLeaves: leaf..<leaf + 1) }
  public func microbatches(ofLeaves leaves: Range<Int>) -> Range<Int> {
    leaves.lowerBound * microbatchesPerLeaf..<leaves.upperBound * microbatchesPerLeaf
  }
}

/// The one binary tree along which leaf sums are added: a node over `n > 1` leaves splits after the
/// largest power of two below `n`, whatever computes it.
public struct LeafTree: Sendable {
  public let leaves: Int
  public init(leaves: Int) { self.leaves = leaves }

  /// The two halves of a node, or nil for a single leaf.
  public static func children(of node: Range<Int>) -> (Range<Int>, Range<Int>)? {
    guard node.count > 1 else { return nil }
    var half = 1
    while half * 2 < node.count { half *= 2 }
    let middle = node.lowerBound + half
    return (node.lowerBound..<middle, middle..<node.upperBound)
  }

  /// Whether the tree has a node over exactly these leaves.
  public func contains(_ range: Range<Int>) -> Bool { !range.isEmpty && wholeSubtrees(in: range) == [range] }

  /// Whether two finished sums are the two halves of one node, to be added next.
  public func areSiblings(_ left: Range<Int>, _ right: Range<Int>) -> Bool {
    guard left.upperBound == right.lowerBound else { return false }
    let parent = left.lowerBound..<right.upperBound
    guard contains(parent), let (first, second) = Self.children(of: parent) else { return false }
    return first == left && second == right
  }

  /// The largest whole subtrees inside `range`, left to right: what a replica that owns those leaves can
  /// sum without anybody else.
  public func wholeSubtrees(in range: Range<Int>) -> [Range<Int>] {
    func visit(_ node: Range<Int>) -> [Range<Int>] {
      if node.lowerBound >= range.lowerBound && node.upperBound <= range.upperBound { return [node] }
      guard node.overlaps(range), let (left, right) = Self.children(of: node) else { return [] }
      return visit(left) + visit(right)
    }
    return leaves == 0 ? [] : visit(0..<leaves)
  }

  /// The most sums that whoever adds up the leaves of `range` in ascending order has at one time, the one in the making
  /// included: those of finished subtrees, and within a subtree of n leaves one for each level above its deepest leaf.
  public func mostSums(in range: Range<Int>) -> Int {
    wholeSubtrees(in: range).enumerated().map { finished, node in
      finished + 1 + (Int.bitWidth - 1 - node.count.leadingZeroBitCount)
    }.max() ?? 0
  }
}
