import ClusterModel
import Collectives
import Testing

/// Blocks that are plain arrays: the order of sums by itself.
private final class ArrayBlock {
  var values: [Float]
  init(_ values: [Float]) { self.values = values }
}

private struct ArrayMemory: ReductionMemory {
  func makeBlock(elements: Int) -> ArrayBlock { ArrayBlock([Float](repeating: .nan, count: elements)) }
  func add(_ source: ArrayBlock, at sourceOffset: Int, to destination: ArrayBlock, at offset: Int, count: Int) {
    for index in 0..<count { destination.values[offset + index] += source.values[sourceOffset + index] }
  }
  func add(
    _ bytes: UnsafeRawBufferPointer, to source: ArrayBlock, at sourceOffset: Int, into destination: ArrayBlock,
    at offset: Int
  ) {
    for index in 0..<bytes.count / 4 {
      destination.values[offset + index] =
        source.values[sourceOffset + index] + bytes.loadUnaligned(fromByteOffset: index * 4, as: Float.self)
    }
  }
  func copy(_ source: ArrayBlock, at sourceOffset: Int, to destination: ArrayBlock, at offset: Int, count: Int) {
    for index in 0..<count { destination.values[offset + index] = source.values[sourceOffset + index] }
  }
  func download(_ block: ArrayBlock, at offset: Int, into bytes: UnsafeMutableRawBufferPointer) {
    block.values[offset..<offset + bytes.count / 4].withUnsafeBytes { bytes.copyMemory(from: $0) }
  }
  func upload(_ bytes: UnsafeRawBufferPointer, to block: ArrayBlock, at offset: Int) {
    for index in 0..<bytes.count / 4 {
      block.values[offset + index] = bytes.loadUnaligned(fromByteOffset: index * 4, as: Float.self)
    }
  }
}

/// Flat gradients in which any other order of sums shows: huge and tiny, cancelling, infinite.
private func leafGradient(_ leaf: Int, count: Int) -> [Float] {
  (0..<count).map { index in
    var z = UInt64(leaf &* 1_000_003 &+ index &* 7 &+ 1) &* 0x9e37_79b9_7f4a_7c15
    z = (z ^ (z >> 29)) &* 0xbf58_476d_1ce4_e5b9
    z ^= z >> 32
    switch index % 5 {
    case 0: return [1e8, 1, -1e8, 1e-3][(leaf + index) % 4]
    case 1: return (leaf % 2 == 0 ? 1 : -1) * 3.0e38 * Float(z % 97) / 97
    case 2: return Float(bitPattern: UInt32(truncatingIfNeeded: z) & 0x807F_FFFF)  // subnormal
    default: return Float(Int64(bitPattern: z) % 1_000_000) * [1e-7, 1, 1e5][Int(z % 3)]
    }
  }
}

private func treeSum(_ node: Range<Int>, _ leaves: [[Float]]) -> [Float] {
  guard let (left, right) = LeafTree.children(of: node) else { return leaves[node.lowerBound] }
  return zip(treeSum(left, leaves), treeSum(right, leaves)).map { $0 + $1 }
}

/// All divisions of `leaves` leaves into `replicas` ranges that are not empty.
private func partitions(_ leaves: Range<Int>, _ replicas: Int) -> [[Range<Int>]] {
  if replicas == 1 { return leaves.isEmpty ? [] : [[leaves]] }
  return (leaves.lowerBound + 1..<max(leaves.upperBound, leaves.lowerBound + 1)).flatMap { cut in
    partitions(cut..<leaves.upperBound, replicas - 1).map { [leaves.lowerBound..<cut] + $0 }
  }
}

@Suite struct TreeReductionTests {
  /// Sizes with gaps between the tensors, so that offsets and packed places differ.
  static let sizes = [5, 17, 1, 64, 3, 30, 2]
  static var spans: [TensorSpan] {
    var offset = 0
    return sizes.enumerated().map { index, size in
      defer { offset += size + (index % 3 == 1 ? 4 : 0) }
      return TensorSpan(offset: offset, count: size)
    }
  }
  static var flatCount: Int { (spans.last.map { $0.offset + $0.count } ?? 0) + 4 }

  /// Reduces and gathers; gives every replica's parameters, which the test sets to the summed gradients.
  private func run(
    leaves: Int, ranges: [Range<Int>], bucketSize: BucketSize, inParts: Bool = false, inPlace: Bool = false
  ) throws -> [[Float]] {
    let network = MemoryNetwork()
    let gradients = (0..<leaves).map { leafGradient($0, count: Self.flatCount) }
    let owners = TensorOwnership.assign(sizes: Self.sizes, replicas: ranges.count)
    let members = ranges.indices.map { WorkerID(UInt32(10 + $0)) }
    let values = try onThreads(ranges.count) { replica in
      let reduction = try TreeReduction(
        memory: ArrayMemory(), link: MemoryLink(network: network, me: members[replica]), leaves: leaves,
        replicaLeaves: ranges, members: members, replica: replica, stage: 1, spans: Self.spans, owners: owners,
        bucketSize: bucketSize)
      let values = ArrayBlock([Float](repeating: 0, count: Self.flatCount))
      for step in Step(0)..<2 {
        let partials = LeafTree(leaves: leaves).wholeSubtrees(in: ranges[replica]).map { node in
          (node: node, gradient: ArrayBlock(treeSum(node, gradients)))
        }
        if inPlace {
          values.values = partials[try reduction.allReduce(step: step, partials: partials)].gradient.values
          continue
        }
        let owned = Self.sizes.indices.filter { owners[$0] == replica }
        let results = owned.map { ArrayBlock([Float](repeating: .nan, count: Self.sizes[$0])) }
        if inParts {
          try Self.stepInParts(reduction, step, partials, owned, values)
          continue
        }
        try reduction.reduce(step: step, partials: partials, into: results)
        for (result, tensor) in zip(results, owned) {
          values.values.replaceSubrange(
            Self.spans[tensor].offset..<Self.spans[tensor].offset + Self.sizes[tensor], with: result.values)
        }
        try reduction.gather(step: step, values: values)
      }
      return values.values
    }
    #expect(network.leftovers == 0)
    return values
  }

  /// As a worker does: gradients become final from the last tensor to the first, parameters leave round by round.
  private static func stepInParts(
    _ reduction: TreeReduction<ArrayMemory>, _ step: Step, _ partials: [(node: Range<Int>, gradient: ArrayBlock)],
    _ owned: [Int], _ values: ArrayBlock
  ) throws {
    // What is not final yet must not be looked at.
    let final = partials.map(\.gradient.values)
    for partial in partials { partial.gradient.values = [Float](repeating: .nan, count: flatCount) }
    try reduction.begin(step: step, partials: partials)
    for tensors in [5..<7, 4..<5, 1..<4, 0..<1] {
      let elements =
        spans[tensors.lowerBound].offset..<spans[tensors.upperBound - 1].offset + sizes[tensors.upperBound - 1]
      for (partial, values) in zip(partials, final) {
        partial.gradient.values.replaceSubrange(elements, with: values[elements])
      }
      try reduction.finished(tensors: tensors)
    }
    let sum = partials[try reduction.complete()].gradient.values
    reduction.beginGather(step: step)
    var taken: Set<Int> = []
    for (round, members) in reduction.updateRounds.enumerated() {
      for member in members {
        #expect(owned[member.ownedPosition] == member.tensor)
        let range = member.flatOffset..<member.flatOffset + member.count
        values.values.replaceSubrange(range, with: sum[range])
      }
      try reduction.sendUpdated(round: round, values: values) { taken.insert($0.tensor) }
    }
    try reduction.completeGather(values: values) { taken.insert($0.tensor) }
    #expect(taken == Set(sizes.indices).subtracting(owned))
  }

  @Test(.timeLimit(.minutes(3)), arguments: 1...7) func stepsInPartsGiveTheSameBits(leaves: Int) throws {
    let gradients = (0..<leaves).map { leafGradient($0, count: Self.flatCount) }
    let whole = treeSum(0..<leaves, gradients)
    for replicas in 1...4 {
      for ranges in partitions(0..<leaves, replicas) {
        for size in [
          BucketSize(), BucketSize(bytes: 40),
          BucketSize(bytes: 40, windowBytes: 1),
        ] {
          for values in try run(leaves: leaves, ranges: ranges, bucketSize: size, inParts: true) {
            for span in Self.spans {
              let range = span.offset..<span.offset + span.count
              #expect(values[range].map(\.bitPattern) == whole[range].map(\.bitPattern), "\(ranges)")
            }
          }
        }
      }
    }
  }

  @Test func bucketsLeaveBeforeTheLastGradientIsFinal() throws {
    let network = MemoryNetwork()
    let members = [WorkerID(1), WorkerID(2)]
    let reduction = try TreeReduction(
      memory: ArrayMemory(), link: MemoryLink(network: network, me: members[0]), leaves: 2,
      replicaLeaves: [0..<1, 1..<2],
      members: members, replica: 0, stage: 0,
      spans: (0..<4).map { TensorSpan(offset: 16 * $0, count: 16) }, owners: [0, 1, 0, 1],
      bucketSize: BucketSize(bytes: 64))
    try reduction.begin(step: 0, partials: [(node: 0..<1, gradient: ArrayBlock([Float](repeating: 1, count: 64)))])
    try reduction.finished(tensors: 2..<4)
    #expect(network.leftovers == 1)
    try reduction.finished(tensors: 0..<2)
    #expect(network.leftovers == 2)
  }

  @Test(.timeLimit(.minutes(3)), arguments: 1...9) func everyDivisionOfTheLeavesGivesTheSameBits(leaves: Int) throws {
    let gradients = (0..<leaves).map { leafGradient($0, count: Self.flatCount) }
    let whole = treeSum(0..<leaves, gradients)
    for replicas in 1...4 {
      for ranges in partitions(0..<leaves, replicas) {
        for (size, inPlace) in [(BucketSize(), false), (BucketSize(bytes: 40), false), (BucketSize(bytes: 40), true)] {
          for values in try run(leaves: leaves, ranges: ranges, bucketSize: size, inPlace: inPlace) {
            for span in Self.spans {
              let range = span.offset..<span.offset + span.count
              #expect(values[range].map(\.bitPattern) == whole[range].map(\.bitPattern), "\(ranges)")
            }
          }
        }
      }
    }
  }

  @Test func anotherOrderWouldShow() {
    let gradients = (0..<5).map { leafGradient($0, count: 100) }
    let sequential = gradients.dropFirst().reduce(gradients[0]) { zip($0, $1).map { $0 + $1 } }
    #expect(sequential.map(\.bitPattern) != treeSum(0..<5, gradients).map(\.bitPattern))
  }

  @Test func groupsAndPartialsThatDoNotFitAreErrors() throws {
    let link = MemoryLink(network: MemoryNetwork(), me: WorkerID(1))
    func make(_ ranges: [Range<Int>], members: Int, owners: [Int] = [0]) throws -> TreeReduction<ArrayMemory> {
      try TreeReduction(
        memory: ArrayMemory(), link: link, leaves: 4, replicaLeaves: ranges,
        members: (0..<members).map { WorkerID(UInt32($0)) }, replica: 0, stage: 0,
        spans: [TensorSpan(offset: 0, count: 1)], owners: owners)
    }
    #expect(throws: CollectiveError.self) { try make([0..<3], members: 1) }
    #expect(throws: CollectiveError.self) { try make([0..<2, 3..<4], members: 2) }
    #expect(throws: CollectiveError.self) { try make([0..<4], members: 2) }
    #expect(throws: CollectiveError.self) { try make([0..<4], members: 1, owners: [1]) }
    let group = try make([0..<4], members: 1)
    #expect(throws: CollectiveError.wrongPartials(step: 3, expected: [0..<4], given: [0..<2])) {
      try group.reduce(step: 3, partials: [(node: 0..<2, gradient: ArrayBlock([1]))], into: [ArrayBlock([0])])
    }
    #expect(throws: CollectiveError.wrongResults(step: 3, expected: 1, given: 0)) {
      try group.reduce(step: 3, partials: [(node: 0..<4, gradient: ArrayBlock([1]))], into: [])
    }
  }
}

@Suite struct TensorOwnershipTests {
  @Test func largestFirstToTheLeastLoaded() {
    #expect(TensorOwnership.assign(sizes: [10, 1, 7, 3], replicas: 2) == [0, 0, 1, 1])
    #expect(TensorOwnership.assign(sizes: [4, 4, 4, 4], replicas: 3) == [0, 1, 2, 0])
    #expect(TensorOwnership.assign(sizes: [5, 6], replicas: 1) == [0, 0])
    #expect(TensorOwnership.assign(sizes: [], replicas: 3) == [])
  }
  @Test func noReplicaHasMoreThanItsShareAndOneTensor() {
    let sizes = (0..<200).map { 1 + ($0 * 7_919) % 1_000 }
    for replicas in 1...8 {
      let owners = TensorOwnership.assign(sizes: sizes, replicas: replicas)
      for replica in 0..<replicas {
        let load = sizes.indices.filter { owners[$0] == replica }.reduce(0) { $0 + sizes[$1] }
        #expect(load <= sizes.reduce(0, +) / replicas + 1_000)
      }
    }
  }
}
