import ClusterModel

/// Gradient sums over the replicas of a stage, added along the leaf tree and nothing else.
///
/// Each replica holds the sums of the whole subtrees in its range of leaves. For every bucket they go to its
/// owner, who completes the tree: a node is what one replica has summed, or its left half plus its right
/// half. Which replica has what changes who adds, never what is added to what, so the bits are the same for
/// every division of the leaves.
///
/// All replicas walk through the buckets in rounds, one bucket of every owner in each, and send some rounds
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
  /// Of each owner its buckets.
  package let buckets: [[Bucket]]
  private let rounds: Int
  private let ownedTensors: Int
  private var scratch: [Memory.Block] = []
  private var freeScratch: [Int] = []
  /// Rounds that are sent before the first is waited for.
  private let ahead = 2

  /// A sum that is being completed: in one of our own partials, in scratch, or with the replica that made it.
  private enum Operand {
    case partial(Int)
    case scratch(Int)
    case remote(replica: Int, ordinal: Int)
  }
  package typealias Partials = [(node: Range<Int>, gradient: Memory.Block)]

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
    // Allocated here, because a steady step allocates nothing.
    let largestOwned = buckets[replica].map(\.elements).max() ?? 0
    if largestOwned > 0 {
      for index in 0..<scratchNeeded(for: 0..<leaves).peak {
        scratch.append(try memory.makeBlock(elements: largestOwned))
        freeScratch.append(index)
      }
    }
  }

  /// Blocks that completing a node takes at its worst, and where its sum is then.
  private func scratchNeeded(for node: Range<Int>) -> (peak: Int, result: Operand) {
    if let place = places[node] {
      return (0, place.replica == replica ? .partial(0) : .remote(replica: place.replica, ordinal: 0))
    }
    guard let (first, second) = LeafTree.children(of: node) else { return (0, .scratch(0)) }
    let left = scratchNeeded(for: first)
    let right = scratchNeeded(for: second)
    switch (left.result, right.result) {
    case (.partial, _): return (max(left.peak, right.peak), .partial(0))
    case (.scratch, .partial): return (max(left.peak, 1 + right.peak), .partial(0))
    case (.scratch, _): return (max(left.peak, 1 + right.peak), .scratch(0))
    case (.remote, .partial): return (right.peak, .partial(0))
    case (.remote, .scratch): return (right.peak, .scratch(0))
    case (.remote, .remote): return (1, .scratch(0))
    }
  }

  // MARK: Reduce

  /// - Parameters:
  ///   - partials: the sums of the replica's whole subtrees, left to right, in flat layout; used up.
  ///   - results: one block for each tensor that this replica owns, in order of the tensor.
  package func reduce(step: Step, partials: Partials, into results: [Memory.Block])
    throws
  {
    guard partials.map(\.node) == nodes[replica] else {
      throw CollectiveError.wrongPartials(step: step, expected: nodes[replica], given: partials.map(\.node))
    }
    guard results.count == ownedTensors else {
      throw CollectiveError.wrongResults(step: step, expected: ownedTensors, given: results.count)
    }
    for round in 0..<min(ahead, rounds) { try sendPartials(round: round, step, partials) }
    for round in 0..<rounds {
      if round + ahead < rounds { try sendPartials(round: round + ahead, step, partials) }
      if round < buckets[replica].count { try complete(buckets[replica][round], step, partials, into: results) }
    }
  }

  private func sendPartials(round: Int, _ step: Step, _ partials: Partials) throws {
    for owner in members.indices where owner != replica && round < buckets[owner].count {
      try sendPartials(buckets[owner][round], step, partials)
    }
  }

  /// Sends this replica's sums over a bucket of another owner; its gradients are final.
  package func sendPartials(_ bucket: Bucket, _ step: Step, _ partials: Partials) throws {
    for (ordinal, partial) in partials.enumerated() {
      try link.send(
        key(.partialSum, step, ordinal: ordinal, bucket), to: [members[bucket.owner]], byteCount: bucket.bytes
      ) { try pack(partial.gradient, bucket, into: $0) }
    }
  }

  /// Completes the sums over a bucket of this replica, whose own gradients are final; waits for the others'.
  package func complete(_ bucket: Bucket, _ step: Step, _ partials: Partials, into results: [Memory.Block]) throws {
    guard places[0..<tree.leaves] == nil, let (first, second) = LeafTree.children(of: 0..<tree.leaves) else {
      return try keep(try sum(0..<tree.leaves, bucket, step, partials), bucket, step, partials, results)
    }
    let left = try sum(first, bucket, step, partials)
    let right = try sum(second, bucket, step, partials)
    switch (left, right) {
    case (.partial(let own), .remote(let from, let ordinal)), (.remote(let from, let ordinal), .partial(let own)):
      // The last sum goes straight to where it is wanted.
      try receive(from, ordinal, bucket, step) { bytes, range in
        try forEachMember(of: bucket, in: range) { member, part, place in
          try memory.add(
            slice(bytes, place), to: partials[own].gradient, at: member.flatOffset + part,
            into: results[member.ownedPosition], at: member.tensorOffset + part)
        }
      }
    default: try keep(try combine(left, right, bucket, step, partials), bucket, step, partials, results)
    }
  }

  /// Puts a finished sum where it is wanted.
  private func keep(
    _ sum: Operand, _ bucket: Bucket, _ step: Step, _ partials: Partials, _ results: [Memory.Block]
  ) throws {
    switch sum {
    case .partial(let index):
      for member in bucket.members {
        memory.copy(
          partials[index].gradient, at: member.flatOffset, to: results[member.ownedPosition], at: member.tensorOffset,
          count: member.count)
      }
    case .scratch(let index):
      for member in bucket.members {
        memory.copy(
          scratch[index], at: member.packedOffset, to: results[member.ownedPosition], at: member.tensorOffset,
          count: member.count)
      }
      freeScratch.append(index)
    case .remote(let from, let ordinal):
      try receive(from, ordinal, bucket, step) { bytes, range in
        forEachMember(of: bucket, in: range) { member, part, place in
          memory.upload(slice(bytes, place), to: results[member.ownedPosition], at: member.tensorOffset + part)
        }
      }
    }
  }

  /// The sum of a node of the tree for one bucket: left half + right half.
  private func sum(_ node: Range<Int>, _ bucket: Bucket, _ step: Step, _ partials: Partials) throws -> Operand {
    if let place = places[node] {
      return place.replica == replica
        ? .partial(place.ordinal) : .remote(replica: place.replica, ordinal: place.ordinal)
    }
    guard let (first, second) = LeafTree.children(of: node) else {
      preconditionFailure("leaf \(node.lowerBound) belongs to no replica, though their ranges cover the tree")
    }
    return try combine(
      try sum(first, bucket, step, partials), try sum(second, bucket, step, partials), bucket, step, partials)
  }

  /// One sum of two, in the place of either: a + b and b + a are the same bits.
  private func combine(
    _ left: Operand, _ right: Operand, _ bucket: Bucket, _ step: Step, _ partials: Partials
  ) throws -> Operand {
    switch (left, right) {
    case (.partial(let a), .partial(let b)):
      for run in bucket.runs {
        memory.add(
          partials[b].gradient, at: run.flatOffset, to: partials[a].gradient, at: run.flatOffset, count: run.count)
      }
      return .partial(a)
    case (.partial(let own), .scratch(let index)), (.scratch(let index), .partial(let own)):
      for run in bucket.runs {
        memory.add(
          scratch[index], at: run.packedOffset, to: partials[own].gradient, at: run.flatOffset, count: run.count)
      }
      freeScratch.append(index)
      return .partial(own)
    case (.scratch(let a), .scratch(let b)):
      memory.add(scratch[b], at: 0, to: scratch[a], at: 0, count: bucket.elements)
      freeScratch.append(b)
      return .scratch(a)
    case (.partial(let own), .remote(let from, let ordinal)), (.remote(let from, let ordinal), .partial(let own)):
      try receive(from, ordinal, bucket, step) { bytes, range in
        try forEachRun(of: bucket, in: range) { flat, place in
          try memory.add(
            slice(bytes, place), to: partials[own].gradient, at: flat, into: partials[own].gradient, at: flat)
        }
      }
      return .partial(own)
    case (.scratch(let index), .remote(let from, let ordinal)), (.remote(let from, let ordinal), .scratch(let index)):
      try receive(from, ordinal, bucket, step) { bytes, range in
        try memory.add(
          bytes, to: scratch[index], at: range.lowerBound, into: scratch[index], at: range.lowerBound)
      }
      return .scratch(index)
    case (.remote(let from, let ordinal), .remote):
      guard let index = freeScratch.popLast() else {
        preconditionFailure("completing the tree took more scratch than was counted")
      }
      try receive(from, ordinal, bucket, step) { bytes, range in
        memory.upload(bytes, to: scratch[index], at: range.lowerBound)
      }
      return try combine(.scratch(index), right, bucket, step, partials)
    }
  }

  // MARK: Gather

  /// Sends the tensors that this replica owns to the others and takes theirs, in a flat block.
  package func gather(step: Step, values: Memory.Block) throws {
    for round in 0..<min(ahead, rounds) { try sendValues(round: round, step, values) }
    for round in 0..<rounds {
      if round + ahead < rounds { try sendValues(round: round + ahead, step, values) }
      for owner in members.indices where owner != replica && round < buckets[owner].count {
        try receiveValues(buckets[owner][round], step, values)
      }
    }
  }

  private func sendValues(round: Int, _ step: Step, _ values: Memory.Block) throws {
    if round < buckets[replica].count { try sendValues(buckets[replica][round], step, values) }
  }

  /// Sends a bucket of this replica, whose values are final, to all others.
  package func sendValues(_ bucket: Bucket, _ step: Step, _ values: Memory.Block) throws {
    let others = members.indices.filter { $0 != replica }.map { members[$0] }
    guard !others.isEmpty else { return }
    try link.send(key(.parameters, step, ordinal: 0, bucket), to: others, byteCount: bucket.bytes) {
      try pack(values, bucket, into: $0)
    }
  }

  /// Waits for a bucket of another owner and puts it where it belongs.
  package func receiveValues(_ bucket: Bucket, _ step: Step, _ values: Memory.Block) throws {
    try link.withReceived(
      key(.parameters, step, ordinal: 0, bucket), from: members[bucket.owner], byteCount: bucket.bytes
    ) { bytes, offset in
      forEachRun(of: bucket, in: Self.elements(bytes, offset)) { flat, place in
        memory.upload(slice(bytes, place), to: values, at: flat)
      }
    }
  }

  // MARK: Frames

  private func key(_ kind: FrameKey.Kind, _ step: Step, ordinal: Int, _ bucket: Bucket) -> FrameKey {
    FrameKey(kind: kind, step: step, microbatch: UInt32(ordinal), stage: stage, part: UInt32(bucket.index))
  }

  private func pack(_ block: Memory.Block, _ bucket: Bucket, into bytes: UnsafeMutableRawBufferPointer) throws {
    let size = MemoryLayout<Float>.size
    for run in bucket.runs {
      try memory.download(
        block, at: run.flatOffset,
        into: UnsafeMutableRawBufferPointer(
          rebasing: bytes[run.packedOffset * size..<(run.packedOffset + run.count) * size]))
    }
  }

  /// - Parameter body: gets bytes, and which elements of the bucket they are.
  private func receive(
    _ from: Int, _ ordinal: Int, _ bucket: Bucket, _ step: Step,
    _ body: (UnsafeRawBufferPointer, Range<Int>) throws -> Void
  ) throws {
    try link.withReceived(
      key(.partialSum, step, ordinal: ordinal, bucket), from: members[from], byteCount: bucket.bytes
    ) { bytes, offset in try body(bytes, Self.elements(bytes, offset)) }
  }

  private static func elements(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> Range<Int> {
    offset / MemoryLayout<Float>.size..<(offset + bytes.count) / MemoryLayout<Float>.size
  }
  private func slice(_ bytes: UnsafeRawBufferPointer, _ elements: Range<Int>) -> UnsafeRawBufferPointer {
    let size = MemoryLayout<Float>.size
    return UnsafeRawBufferPointer(rebasing: bytes[elements.lowerBound * size..<elements.upperBound * size])
  }

  /// Calls `body` with the flat offset of each contiguous part of a range of the bucket, and where the part is
  /// in that range.
  private func forEachRun(
    of bucket: Bucket, in range: Range<Int>, _ body: (_ flatOffset: Int, _ place: Range<Int>) throws -> Void
  ) rethrows {
    for run in bucket.runs {
      let part = range.clamped(to: run.packedOffset..<run.packedOffset + run.count)
      guard !part.isEmpty else { continue }
      try body(
        run.flatOffset + part.lowerBound - run.packedOffset,
        part.lowerBound - range.lowerBound..<part.upperBound - range.lowerBound)
    }
  }
  /// The same by tensor: `part` is the first element of the member that is meant.
  private func forEachMember(
    of bucket: Bucket, in range: Range<Int>, _ body: (Bucket.Member, _ part: Int, _ place: Range<Int>) throws -> Void
  ) rethrows {
    for member in bucket.members {
      let part = range.clamped(to: member.packedOffset..<member.packedOffset + member.count)
      guard !part.isEmpty else { continue }
      try body(
        member, part.lowerBound - member.packedOffset,
        part.lowerBound - range.lowerBound..<part.upperBound - range.lowerBound)
    }
  }
}
