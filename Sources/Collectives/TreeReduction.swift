import ClusterModel

/// Gradient sums over the replicas of a stage, added along the leaf tree and nothing else.
///
/// Each replica holds the sums of the whole subtrees in its range of leaves. For every bucket they go to its
/// owner, who completes the tree: a node is what one replica has summed, or its left half plus its right
/// half. Which replica has what changes who adds, never what is added to what, so the bits are the same for
/// every division of the leaves.
///
/// All replicas walk through the buckets in rounds, one bucket of every owner in each, and send one round
/// ahead of what they wait for: nobody waits for a frame that its sender would send only after waiting
/// itself, and a sender is never more than a few rounds ahead of the slowest.
package final class TreeReduction<Memory: ReductionMemory> {
  private let memory: Memory
  private let link: any Link
  private let tree: LeafTree
  private let members: [WorkerID]
  private let replica: Int
  private let stage: UInt32
  /// Of each replica, the nodes whose sums it has, left to right.
  private let nodes: [[Range<Int>]]
  /// Where each such node is summed: replica and place in its list.
  private let places: [Range<Int>: (replica: Int, ordinal: Int)]
  private let buckets: [[Bucket]]
  private let rounds: Int
  private let ownedTensors: Int
  private var scratch: [Memory.Block] = []
  private var freeScratch: [Int] = []
  private let staging: UnsafeMutableRawBufferPointer

  /// A sum that is being completed: one of our own partials, or received into scratch.
  private enum Operand {
    case partial(Int)
    case scratch(Int)
  }

  package init(
    memory: Memory, link: any Link, leaves: Int, replicaLeaves: [Range<Int>], members: [WorkerID], replica: Int,
    stage: Int, spans: [TensorSpan], owners: [Int], bucketSize: BucketSize = BucketSize()
  ) throws {
    guard replicaLeaves.count == members.count, members.indices.contains(replica), leaves > 0, stage >= 0 else {
      throw CollectiveError.invalidGroup(
        reason: "\(replicaLeaves.count) ranges of leaves for \(members.count) replicas")
    }
    guard replicaLeaves.first?.lowerBound == 0, replicaLeaves.last?.upperBound == leaves,
      zip(replicaLeaves, replicaLeaves.dropFirst()).allSatisfy({ $0.upperBound == $1.lowerBound })
    else { throw CollectiveError.invalidGroup(reason: "\(replicaLeaves) do not divide \(leaves) leaves") }
    guard owners.count == spans.count, owners.allSatisfy(members.indices.contains) else {
      throw CollectiveError.invalidGroup(reason: "\(spans.count) tensors with \(owners.count) owners")
    }
    self.memory = memory
    self.link = link
    self.members = members
    self.replica = replica
    self.stage = UInt32(stage)
    tree = LeafTree(leaves: leaves)
    nodes = replicaLeaves.map(tree.wholeSubtrees)
    var places: [Range<Int>: (replica: Int, ordinal: Int)] = [:]
    for (replica, list) in nodes.enumerated() {
      for (ordinal, node) in list.enumerated() { places[node] = (replica, ordinal) }
    }
    self.places = places
    buckets = Bucket.plan(spans: spans, owners: owners, replicas: members.count, size: bucketSize)
    rounds = buckets.map(\.count).max() ?? 0
    ownedTensors = owners.count { $0 == replica }
    let largest = buckets.joined().map(\.elements).max() ?? 0
    staging = .allocate(byteCount: max(largest, 1) * MemoryLayout<Float>.size, alignment: 64)
    // Allocated here, because a steady step allocates nothing.
    let largestOwned = buckets[replica].map(\.elements).max() ?? 0
    if largestOwned > 0 {
      for index in 0..<scratchNeeded(for: 0..<leaves).peak {
        scratch.append(try memory.makeBlock(elements: largestOwned))
        freeScratch.append(index)
      }
    }
  }
  deinit { staging.deallocate() }

  /// Blocks that completing a node takes at its worst, and what it leaves in use (0 or 1).
  private func scratchNeeded(for node: Range<Int>) -> (peak: Int, left: Int) {
    if let place = places[node] { return place.replica == replica ? (0, 0) : (1, 1) }
    guard let (first, second) = LeafTree.children(of: node) else { return (0, 0) }
    let left = scratchNeeded(for: first)
    let right = scratchNeeded(for: second)
    return (max(left.peak, left.left + right.peak), left.left)
  }

  // MARK: Reduce

  /// - Parameters:
  ///   - partials: the sums of the replica's whole subtrees, left to right, in flat layout; used up.
  ///   - results: one block for each tensor that this replica owns, in order of the tensor.
  package func reduce(step: Step, partials: [(node: Range<Int>, gradient: Memory.Block)], into results: [Memory.Block])
    throws
  {
    guard partials.map(\.node) == nodes[replica] else {
      throw CollectiveError.wrongPartials(step: step, expected: nodes[replica], given: partials.map(\.node))
    }
    guard results.count == ownedTensors else {
      throw CollectiveError.wrongResults(step: step, expected: ownedTensors, given: results.count)
    }
    if rounds > 0 { try sendPartials(round: 0, step, partials) }
    for round in 0..<rounds {
      if round + 1 < rounds { try sendPartials(round: round + 1, step, partials) }
      guard round < buckets[replica].count else { continue }
      let bucket = buckets[replica][round]
      switch try sum(0..<tree.leaves, bucket, step, partials) {
      case .partial(let index):
        for member in bucket.members {
          memory.copy(
            partials[index].gradient, at: member.flatOffset, to: results[member.ownedPosition], at: 0,
            count: member.count)
        }
      case .scratch(let index):
        for member in bucket.members {
          memory.copy(
            scratch[index], at: member.packedOffset, to: results[member.ownedPosition], at: 0, count: member.count)
        }
        freeScratch.append(index)
      }
    }
  }

  private func sendPartials(
    round: Int, _ step: Step, _ partials: [(node: Range<Int>, gradient: Memory.Block)]
  ) throws {
    for owner in members.indices where owner != replica && round < buckets[owner].count {
      let bucket = buckets[owner][round]
      for (ordinal, partial) in partials.enumerated() {
        try link.send(
          key(.partialSum, step, ordinal: ordinal, bucket), to: members[owner], try pack(partial.gradient, bucket))
      }
    }
  }

  /// The sum of a node of the tree for one bucket: left half + right half, always in this order.
  private func sum(
    _ node: Range<Int>, _ bucket: Bucket, _ step: Step, _ partials: [(node: Range<Int>, gradient: Memory.Block)]
  ) throws -> Operand {
    if let place = places[node] {
      return place.replica == replica
        ? .partial(place.ordinal) : .scratch(try receive(place.replica, place.ordinal, bucket, step))
    }
    guard let (first, second) = LeafTree.children(of: node) else {
      preconditionFailure("leaf \(node.lowerBound) belongs to no replica, though their ranges cover the tree")
    }
    let left = try sum(first, bucket, step, partials)
    let right = try sum(second, bucket, step, partials)
    for run in bucket.runs {
      switch (left, right) {
      case (.partial(let a), .partial(let b)):
        memory.add(
          partials[b].gradient, at: run.flatOffset, to: partials[a].gradient, at: run.flatOffset, count: run.count)
      case (.partial(let a), .scratch(let b)):
        memory.add(scratch[b], at: run.packedOffset, to: partials[a].gradient, at: run.flatOffset, count: run.count)
      case (.scratch(let a), .partial(let b)):
        memory.add(partials[b].gradient, at: run.flatOffset, to: scratch[a], at: run.packedOffset, count: run.count)
      case (.scratch(let a), .scratch(let b)):
        memory.add(scratch[b], at: run.packedOffset, to: scratch[a], at: run.packedOffset, count: run.count)
      }
    }
    if case .scratch(let index) = right { freeScratch.append(index) }
    return left
  }

  private func receive(_ from: Int, _ ordinal: Int, _ bucket: Bucket, _ step: Step) throws -> Int {
    let part = stagingPart(bucket)
    try link.receive(key(.partialSum, step, ordinal: ordinal, bucket), from: members[from], into: part)
    guard let index = freeScratch.popLast() else {
      preconditionFailure("completing the tree took more scratch than was counted")
    }
    memory.upload(UnsafeRawBufferPointer(part), to: scratch[index], at: 0)
    return index
  }

  // MARK: Gather

  /// Sends the tensors that this replica owns to the others and takes theirs, in a flat block.
  package func gather(step: Step, values: Memory.Block) throws {
    if rounds > 0 { try sendValues(round: 0, step, values) }
    for round in 0..<rounds {
      if round + 1 < rounds { try sendValues(round: round + 1, step, values) }
      for owner in members.indices where owner != replica && round < buckets[owner].count {
        let bucket = buckets[owner][round]
        let part = stagingPart(bucket)
        try link.receive(key(.parameters, step, ordinal: 0, bucket), from: members[owner], into: part)
        for run in bucket.runs {
          memory.upload(UnsafeRawBufferPointer(slice(part, run)), to: values, at: run.flatOffset)
        }
      }
    }
  }

  private func sendValues(round: Int, _ step: Step, _ values: Memory.Block) throws {
    guard members.count > 1, round < buckets[replica].count else { return }
    let bucket = buckets[replica][round]
    let bytes = try pack(values, bucket)
    for other in members.indices where other != replica {
      try link.send(key(.parameters, step, ordinal: 0, bucket), to: members[other], bytes)
    }
  }

  // MARK: Frames

  private func key(_ kind: FrameKey.Kind, _ step: Step, ordinal: Int, _ bucket: Bucket) -> FrameKey {
    FrameKey(kind: kind, step: step, microbatch: UInt32(ordinal), stage: stage, part: UInt32(bucket.index))
  }
  private func stagingPart(_ bucket: Bucket) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(rebasing: staging[..<(bucket.elements * MemoryLayout<Float>.size)])
  }
  private func slice(_ part: UnsafeMutableRawBufferPointer, _ run: Bucket.Run) -> UnsafeMutableRawBufferPointer {
    let size = MemoryLayout<Float>.size
    return UnsafeMutableRawBufferPointer(
      rebasing: part[run.packedOffset * size..<(run.packedOffset + run.count) * size])
  }
  private func pack(_ block: Memory.Block, _ bucket: Bucket) throws -> UnsafeRawBufferPointer {
    let part = stagingPart(bucket)
    for run in bucket.runs { try memory.download(block, at: run.flatOffset, into: slice(part, run)) }
    return UnsafeRawBufferPointer(part)
  }
}
