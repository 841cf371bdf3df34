import ClusterModel

/// Gradient sums over the replicas of a stage, added along the leaf tree and nothing else; then the owners'
/// updated parameters to everybody.
///
/// Each replica holds the sums of the whole subtrees in its range of leaves. For every bucket they go to its
/// owner, who completes the tree: a node is what one replica has summed, or its left half plus its right
/// half. Which replica has what changes who adds, never what is added to what, so the bits are the same for
/// every division of the leaves. (A sum of two is the same in either order, so it is kept in whichever of the
/// two is ours.)
///
/// A step is driven tensor by tensor, so that buckets leave while the backward pass still runs:
/// `begin`, `finished` for each range of tensors, `complete`; then `beginGather`, `sendUpdated` for each of its
/// buckets, `completeGather`. All replicas go through the buckets in the same rounds, one bucket of every owner
/// in each. Nobody waits before `complete`, and there for a round only after having sent its own of that
/// round; nobody is more than `window` bytes of rounds ahead of what it has summed itself.
package final class TreeReduction<Memory: ReductionMemory> {
  package typealias Partial = (node: Range<Int>, gradient: Memory.Block)

  private let memory: Memory
  private let link: any Link
  private let tree: LeafTree
  private let members: [WorkerID]
  private let replica: Int
  private let stage: UInt32
  /// Of each replica, the nodes whose sums it has, left to right.
  private let nodes: [[Range<Int>]]
  /// Where each such node is summed.
  private let places: [Range<Int>: Place]
  /// Of each owner its buckets.
  package let buckets: [[Bucket]]
  /// Of each tensor, the buckets of its owner that hold some of it.
  private let roundsOfTensor: [(owner: Int, rounds: [Int])]
  private let rounds: Int
  /// How many rounds may be sent before the first of them is summed.
  private let roundsAhead: Int
  /// The same for one who does nothing else: few, so that what is on the way stays in the caches.
  private static var roundsAheadWhenWaiting: Int { 2 }
  private let ownedTensors: Int
  private var scratch: [Memory.Block] = []
  private var freeScratch: [Int] = []

  private struct Place {
    var replica: Int
    /// Place in its list.
    var ordinal: Int
  }
  /// A sum that is being completed.
  private enum Operand {
    /// One of our own partials.
    case partial(Int)
    case scratch(Int)
    /// Another's, not received yet.
    case remote(Place)
  }

  /// One step on its way.
  private struct Progress {
    var step: Step
    var partials: [Partial]
    /// Of each owner and round, tensors (or parts) whose partial sums are not final.
    var unfinished: [[Int]]
    /// Rounds whose frames to others have all left.
    var sentRounds = 0
    /// Rounds whose own bucket is summed.
    var summedRounds = 0
  }
  private var progress: Progress?
  private var gathering: Gathering?
  private struct Gathering {
    var step: Step
    /// Of each owner, the replica that updates its tensors as well and is sent none of them.
    var backups: [Int?]
    var takenRounds = 0

    func sends(_ owner: Int, to member: Int) -> Bool {
      owner != member && !(backups.indices.contains(owner) && backups[owner] == member)
    }
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
      zip(replicaLeaves, replicaLeaves.dropFirst()).allSatisfy({ $0.upperBound == $1.lowerBound }),
      !replicaLeaves.contains(where: \.isEmpty)
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
    var places: [Range<Int>: Place] = [:]
    for (replica, list) in nodes.enumerated() {
      for (ordinal, node) in list.enumerated() { places[node] = Place(replica: replica, ordinal: ordinal) }
    }
    self.places = places
    let buckets = Bucket.plan(spans: spans, owners: owners, replicas: members.count, size: bucketSize)
    self.buckets = buckets
    var roundsOfTensor = owners.map { (owner: $0, rounds: [Int]()) }
    for list in buckets {
      for (round, bucket) in list.enumerated() {
        for member in bucket.members { roundsOfTensor[member.tensor].rounds.append(round) }
      }
    }
    self.roundsOfTensor = roundsOfTensor
    rounds = buckets.map(\.count).max() ?? 0
    let sent = buckets.enumerated().filter { $0.offset != replica }.flatMap { $0.element }
    let frames = nodes[replica].count
    let largestFrames = (sent.map(\.elements).max() ?? 0) * MemoryLayout<Float>.size * frames * (members.count - 1)
    roundsAhead = max(1, bucketSize.windowBytes / max(largestFrames, 1))
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

  /// Blocks that completing a node takes at its worst, and what it leaves in use: 1 where the sum is neither one
  /// of ours nor still to be received.
  private func scratchNeeded(for node: Range<Int>) -> (peak: Int, left: Int, isRemote: Bool) {
    if let place = places[node] { return (0, 0, place.replica != replica) }
    guard let (first, second) = LeafTree.children(of: node) else { return (0, 0, false) }
    let left = scratchNeeded(for: first)
    let right = scratchNeeded(for: second)
    let before = left.left + right.left
    let made = left.isRemote && right.isRemote ? 1 : 0
    let hasOurs = !(left.isRemote || left.left == 1) || !(right.isRemote || right.left == 1)
    return (max(left.peak, left.left + right.peak, before + made), hasOurs ? 0 : 1, false)
  }

  // MARK: Reduce

  /// Begins the sums of a step.
  ///
  /// - Parameter partials: where the sums of the replica's whole subtrees will be, left to right, in flat layout;
  ///   they become final tensor by tensor (``finished(tensors:)``) and are used up.
  package func begin(step: Step, partials: [Partial]) throws {
    guard partials.map(\.node) == nodes[replica] else {
      throw CollectiveError.wrongPartials(step: step, expected: nodes[replica], given: partials.map(\.node))
    }
    progress = Progress(step: step, partials: partials, unfinished: buckets.map { $0.map(\.members.count) })
  }

  /// The partial sums of these tensors are final: sends what is complete, adds what has arrived. Never waits.
  package func finished(tensors: Range<Int>) throws {
    markFinished(tensors)
    guard members.count > 1 else { return }
    var moved = true
    while moved {
      moved = try sendNextRound(ahead: roundsAhead)
      guard let now = progress, now.summedRounds < now.sentRounds, canSum(round: now.summedRounds) else { continue }
      try sumNextRound()
      moved = true
    }
  }

  private func markFinished(_ tensors: Range<Int>) {
    for tensor in tensors {
      let (owner, rounds) = roundsOfTensor[tensor]
      for round in rounds { progress?.unfinished[owner][round] -= 1 }
    }
  }

  /// Waits for what is missing; all tensors must be finished.
  /// - Returns: which of the partials holds the whole sums of the tensors that this replica owns.
  package func complete() throws -> Int {
    precondition(progress?.unfinished.joined().allSatisfy { $0 == 0 } ?? false, "completing sums that are not begun")
    defer { progress = nil }
    guard members.count > 1 else { return 0 }
    while let now = progress, now.summedRounds < rounds {
      while try sendNextRound(ahead: Self.roundsAheadWhenWaiting) {}
      try sumNextRound()
    }
    return resultOrdinal
  }

  /// The whole step at once. What the partials hold must stay until all members have returned.
  /// - Returns: as ``complete()``.
  package func reduce(step: Step, partials: [Partial]) throws -> Int {
    try begin(step: step, partials: partials)
    markFinished(roundsOfTensor.indices)
    return try complete()
  }

  /// The same, into a block for each tensor that this replica owns, in order of the tensor.
  package func reduce(step: Step, partials: [Partial], into results: [Memory.Block]) throws {
    guard results.count == ownedTensors else {
      throw CollectiveError.wrongResults(step: step, expected: ownedTensors, given: results.count)
    }
    let gradient = partials[try reduce(step: step, partials: partials)].gradient
    for member in buckets[replica].flatMap(\.members) {
      memory.copy(
        gradient, at: member.flatOffset, to: results[member.ownedPosition], at: member.tensorOffset,
        count: member.count)
    }
  }

  /// Sends our partial sums of the next round to their owners, if they are final and the window allows.
  private func sendNextRound(ahead: Int) throws -> Bool {
    guard let now = progress, now.sentRounds < rounds, now.sentRounds < now.summedRounds + ahead else { return false }
    let round = now.sentRounds
    for owner in members.indices where owner != replica && round < buckets[owner].count {
      if now.unfinished[owner][round] > 0 { return false }
    }
    for owner in members.indices where owner != replica && round < buckets[owner].count {
      let bucket = buckets[owner][round]
      for (ordinal, partial) in now.partials.enumerated() {
        try send(
          key(.partialSum, now.step, ordinal: ordinal, bucket), to: [members[owner]], partial.gradient, bucket)
      }
    }
    progress?.sentRounds += 1
    return true
  }

  /// Whether the round's own bucket can be summed without waiting.
  private func canSum(round: Int) -> Bool {
    guard round < buckets[replica].count else { return true }
    guard let now = progress, now.unfinished[replica][round] == 0 else { return false }
    let bucket = buckets[replica][round]
    return members.indices.allSatisfy { other in
      other == replica
        || nodes[other].indices.allSatisfy { ordinal in
          link.hasArrived(key(.partialSum, now.step, ordinal: ordinal, bucket), from: members[other])
        }
    }
  }

  private func sumNextRound() throws {
    guard let now = progress else { return }
    if now.summedRounds < buckets[replica].count {
      let result = try sum(0..<tree.leaves, buckets[replica][now.summedRounds], now)
      guard case .partial(resultOrdinal) = result else {
        preconditionFailure("a sum over all leaves ended outside of our own part")
      }
    }
    progress?.summedRounds += 1
  }

  /// Which partial a sum over all leaves ends in: the first of ours that the tree meets.
  private var resultOrdinal: Int { 0 }

  /// The sum of a node of the tree for one bucket: its left half and its right half, nothing else.
  private func sum(_ node: Range<Int>, _ bucket: Bucket, _ now: Progress) throws -> Operand {
    if let place = places[node] { return place.replica == replica ? .partial(place.ordinal) : .remote(place) }
    guard let (first, second) = LeafTree.children(of: node) else {
      preconditionFailure("leaf \(node.lowerBound) belongs to no replica, though their ranges cover the tree")
    }
    let left = try sum(first, bucket, now)
    let right = try sum(second, bucket, now)
    switch (left, right) {
    case (.partial(let a), .partial(let b)):
      for run in bucket.runs {
        memory.add(
          now.partials[b].gradient, at: run.flatOffset, to: now.partials[a].gradient, at: run.flatOffset,
          count: run.count)
      }
      return left
    case (.partial(let a), .scratch(let b)), (.scratch(let b), .partial(let a)):
      for run in bucket.runs {
        memory.add(
          scratch[b], at: run.packedOffset, to: now.partials[a].gradient, at: run.flatOffset, count: run.count)
      }
      freeScratch.append(b)
      return .partial(a)
    case (.partial(let a), .remote(let place)), (.remote(let place), .partial(let a)):
      try receive(place, bucket, now.step) { bytes, packedOffset in
        let flat = now.partials[a].gradient
        try Self.forEachRun(of: bucket, bytes, at: packedOffset) { part, flatOffset in
          try memory.add(part, to: flat, at: flatOffset, into: flat, at: flatOffset)
        }
      }
      return .partial(a)
    case (.scratch(let a), .scratch(let b)):
      memory.add(scratch[b], at: 0, to: scratch[a], at: 0, count: bucket.elements)
      freeScratch.append(b)
      return left
    case (.scratch(let a), .remote(let place)), (.remote(let place), .scratch(let a)):
      try receiveAdding(place, bucket, now.step, to: a)
      return .scratch(a)
    case (.remote(let first), .remote(let second)):
      guard let index = freeScratch.popLast() else {
        preconditionFailure("completing the tree took more scratch than was counted")
      }
      try receive(first, bucket, now.step) { bytes, packedOffset in
        memory.upload(bytes, to: scratch[index], at: packedOffset)
      }
      try receiveAdding(second, bucket, now.step, to: index)
      return .scratch(index)
    }
  }

  private func receiveAdding(_ place: Place, _ bucket: Bucket, _ step: Step, to index: Int) throws {
    try receive(place, bucket, step) { bytes, packedOffset in
      try memory.add(bytes, to: scratch[index], at: packedOffset, into: scratch[index], at: packedOffset)
    }
  }

  /// Hands over the sum of a node that another replica sent, piece by piece, with offsets in elements.
  private func receive(
    _ place: Place, _ bucket: Bucket, _ step: Step, _ body: (UnsafeRawBufferPointer, Int) throws -> Void
  ) throws {
    let size = MemoryLayout<Float>.size
    try link.withReceived(
      key(.partialSum, step, ordinal: place.ordinal, bucket), from: members[place.replica],
      byteCount: bucket.bytes
    ) { bytes, offset in try body(bytes, offset / size) }
  }

  /// The parts of a piece of a frame that are contiguous in flat tensors.
  private static func forEachRun(
    of bucket: Bucket, _ bytes: UnsafeRawBufferPointer, at packedOffset: Int,
    _ body: (UnsafeRawBufferPointer, _ flatOffset: Int) throws -> Void
  ) rethrows {
    let size = MemoryLayout<Float>.size
    let range = packedOffset..<packedOffset + bytes.count / size
    for run in bucket.runs {
      let common = range.clamped(to: run.packedOffset..<run.packedOffset + run.count)
      if common.isEmpty { continue }
      let start = (common.lowerBound - packedOffset) * size
      try body(
        UnsafeRawBufferPointer(rebasing: bytes[start..<start + common.count * size]),
        run.flatOffset + common.lowerBound - run.packedOffset)
    }
  }

  // MARK: Gather

  /// What this replica should update in which round.
  package var updateRounds: [[Bucket.Member]] { buckets[replica].map(\.members) }

  /// Begins to bring the owners' updated tensors to all replicas.
  /// - Parameter backups: of each owner, the replica that updates its tensors as well; empty where none does.
  package func beginGather(step: Step, backups: [Int?] = []) { gathering = Gathering(step: step, backups: backups) }

  /// The tensors of `updateRounds[round]` are updated in `values`: sends them, takes what has arrived.
  /// - Parameter taken: called with each tensor, or part of one, that was put into `values`.
  package func sendUpdated(round: Int, values: Memory.Block, taken: (Bucket.Member) throws -> Void) throws {
    guard members.count > 1 else { return }
    try sendValues(round: round, values)
    while let now = gathering, now.takenRounds <= round, hasArrived(round: now.takenRounds, now) {
      try takeNextRound(values: values, taken)
    }
    // Whoever is far ahead waits, so that what is on the way stays bounded.
    while let now = gathering, now.takenRounds + roundsAhead <= round {
      try takeNextRound(values: values, taken)
    }
  }

  /// Waits for the tensors that others have updated.
  package func completeGather(values: Memory.Block, taken: (Bucket.Member) throws -> Void) throws {
    defer { gathering = nil }
    guard members.count > 1 else { return }
    while let now = gathering, now.takenRounds < rounds { try takeNextRound(values: values, taken) }
  }

  /// The whole gather at once. The values must stay until all members have returned.
  package func gather(step: Step, values: Memory.Block) throws {
    beginGather(step: step)
    defer { gathering = nil }
    guard members.count > 1 else { return }
    for round in 0..<rounds + Self.roundsAheadWhenWaiting {
      if round < buckets[replica].count { try sendValues(round: round, values) }
      if round >= Self.roundsAheadWhenWaiting { try takeNextRound(values: values) { _ in } }
    }
  }

  // MARK: Both

  /// Sums to the owners and gathers the sums, in place and without anything between: whole sums of all tensors
  /// end in one of the partials, which must stay until all members have returned. A bucket's sum leaves right after it was made, while it is in the caches.
  /// - Returns: which of the partials.
  package func allReduce(step: Step, partials: [Partial]) throws -> Int {
    try begin(step: step, partials: partials)
    markFinished(roundsOfTensor.indices)
    beginGather(step: step)
    defer { (progress, gathering) = (nil, nil) }
    guard members.count > 1 else { return 0 }
    let values = partials[resultOrdinal].gradient
    for round in 0..<rounds + Self.roundsAheadWhenWaiting {
      if round < rounds {
        while try sendNextRound(ahead: Self.roundsAheadWhenWaiting) {}
        try sumNextRound()
        if round < buckets[replica].count { try sendValues(round: round, values) }
      }
      // What is overwritten here left as a partial sum before anybody could sum it.
      if round >= Self.roundsAheadWhenWaiting { try takeNextRound(values: values) { _ in } }
    }
    return resultOrdinal
  }

  private func sendValues(round: Int, _ values: Memory.Block) throws {
    guard let now = gathering else { return }
    let bucket = buckets[replica][round]
    let others = members.indices.filter { now.sends(replica, to: $0) }.map { members[$0] }
    if others.isEmpty { return }
    try send(key(.parameters, now.step, ordinal: 0, bucket), to: others, values, bucket)
  }

  private func hasArrived(round: Int, _ now: Gathering) -> Bool {
    members.indices.allSatisfy { owner in
      !now.sends(owner, to: replica) || round >= buckets[owner].count
        || link.hasArrived(key(.parameters, now.step, ordinal: 0, buckets[owner][round]), from: members[owner])
    }
  }

  private func takeNextRound(values: Memory.Block, _ taken: (Bucket.Member) throws -> Void) throws {
    guard let now = gathering else { return }
    let round = now.takenRounds
    for owner in members.indices where now.sends(owner, to: replica) && round < buckets[owner].count {
      let bucket = buckets[owner][round]
      try link.withReceived(
        key(.parameters, now.step, ordinal: 0, bucket), from: members[owner],
        byteCount: bucket.bytes
      ) { bytes, offset in
        Self.forEachRun(of: bucket, bytes, at: offset / MemoryLayout<Float>.size) { part, flatOffset in
          memory.upload(part, to: values, at: flatOffset)
        }
      }
      for member in bucket.members { try taken(member) }
    }
    gathering?.takenRounds += 1
  }

  // MARK: Frames

  private func key(_ kind: FrameKey.Kind, _ step: Step, ordinal: Int, _ bucket: Bucket) -> FrameKey {
    FrameKey(kind: kind, step: step, microbatch: UInt32(ordinal), stage: stage, part: UInt32(bucket.index))
  }

  /// Sends a bucket of a flat block: lent, where the block lies in memory that peers read, else written once into the
  /// memory that it travels from.
  ///
  /// What is lent stays as it is until it is taken: a partial sum that another replica owns changes when that one has
  /// sent the whole sum, and so has taken ours; or with the next step, values with the next update, which begin after all
  /// members have completed this one.
  private func send(_ key: FrameKey, to workers: [WorkerID], _ block: Memory.Block, _ bucket: Bucket) throws {
    let pieces = try bucket.runs.compactMap { try memory.sharedBytes(block, at: $0.flatOffset, count: $0.count) }
    if pieces.count == bucket.runs.count { return try link.lend(key, to: workers, pieces) }
    let size = MemoryLayout<Float>.size
    try link.send(key, to: workers, byteCount: bucket.bytes) { bytes in
      for run in bucket.runs {
        let part = bytes[run.packedOffset * size..<(run.packedOffset + run.count) * size]
        try memory.download(block, at: run.flatOffset, into: UnsafeMutableRawBufferPointer(rebasing: part))
      }
    }
  }
}
