import ClusterModel
import Collectives
import Compute
import Testing

/// The group on a device that delivers results late: what is read before it is waited for shows as zeros.
@Suite(.timeLimit(.minutes(2))) struct ReplicaGroupTests {
  static let sizes = [40, 8, 300, 8, 8, 120]
  static var spans: [TensorSpan] {
    var offset = 0
    return sizes.map { size in
      defer { offset += size }
      return TensorSpan(offset: offset, count: size)
    }
  }
  static let total = sizes.reduce(0, +)

  private func gradient(_ leaf: Int) -> [Float] {
    (0..<Self.total).map { Float(($0 * 31 + leaf * 17) % 101 - 50) * [1e-6, 1, 3e5][($0 + leaf) % 3] }
  }

  /// Sums on the device itself, leaf by leaf along the tree, as a worker does.
  private func partial(_ node: Range<Int>, on device: ReferenceDevice) throws -> Tensor {
    let tensor = try device.allocate(.float32, [Self.total])
    guard let (first, second) = LeafTree.children(of: node) else {
      device.upload(gradient(node.lowerBound), to: tensor)
      return tensor
    }
    let left = try partial(first, on: device)
    device.add(try partial(second, on: device), to: left)
    return left
  }

  /// Two steps of reducing, a made-up update of the owned tensors, and gathering.
  private func parameters(leaves: Int, ranges: [Range<Int>]) throws -> [[Float]] {
    let network = MemoryNetwork()
    let owners = TensorOwnership.assign(sizes: Self.sizes, replicas: ranges.count)
    let members = ranges.indices.map { WorkerID(UInt32($0)) }
    return try onThreads(ranges.count) { replica in
      let device = ReferenceDevice(rounding: .toElementType)
      let group = try ReplicaGroup(
        link: MemoryLink(network: network, me: members[replica]), device: device, leaves: leaves,
        replicaLeaves: ranges, members: members, replica: replica, stage: 0, tensors: Self.spans, owners: owners)
      let values = try device.allocate(.float32, [Self.total])
      let owned = Self.sizes.indices.filter { owners[$0] == replica }
      let results = try owned.map { try device.allocate(.float32, [Self.sizes[$0]]) }
      for step in Step(0)..<2 {
        let partials = try LeafTree(leaves: leaves).wholeSubtrees(in: ranges[replica]).map { node in
          (node: node, gradient: try partial(node, on: device))
        }
        try group.reduce(step: step, partials: partials, into: results)
        for (result, tensor) in zip(results, owned) {
          device.add(result, to: values.slice(at: Self.spans[tensor].offset, shape: [Self.sizes[tensor]]))
        }
        try group.gather(step: step, values: values)
      }
      return try device.floats(values)
    }
  }

  @Test func everyReplicaEndsWithTheParametersOfOneWorker() throws {
    let alone = try parameters(leaves: 6, ranges: [0..<6])[0]
    #expect(alone.contains { $0 != 0 })
    for ranges in [[0..<3, 3..<6], [0..<1, 1..<6], [0..<2, 2..<3, 3..<6], [0..<1, 1..<3, 3..<5, 5..<6]] {
      for values in try parameters(leaves: 6, ranges: ranges) {
        #expect(values.map(\.bitPattern) == alone.map(\.bitPattern), "\(ranges)")
      }
    }
  }
}
