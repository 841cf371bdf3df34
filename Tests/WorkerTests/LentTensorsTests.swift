import ClusterModel
import Collectives
import Compute
import Foundation
import Testing
import Transport
import Worker

/// Replicas that exchange gradients and values over real data planes of one host.
@Suite(.timeLimit(.minutes(2)), .serialized) struct LentTensorsTests {
  static let sizes = [3_000, 8, 70_000, 12, 900, 1 << 18, 5_000]
  static let total = sizes.reduce(0, +)
  static var spans: [TensorSpan] {
    var offset = 0
    return sizes.map { size in
      defer { offset += size }
      return TensorSpan(offset: offset, count: size)
    }
  }

  private struct Outcome: Sendable {
    var values: [[Float]]
    var lent: [UInt64]
    var faults: [String]
  }
  // Safe because each thread writes under the lock.
  private final class Results: @unchecked Sendable {
    let lock = NSLock()
    var values: [Int: [Float]] = [:]
    var faults: [String] = []
  }

  private static func gradient(_ leaf: Int, step: Step) -> [Float] {
    let scales: [Float] = [1e-6, 1, 3e5]
    return (0..<total).map { index in
      let number = (index * 31 + leaf * 17 + Int(step) * 7) % 101 - 50
      return Float(number) * scales[(index + leaf) % 3]
    }
  }

  /// Some steps as workers make them: sums, an update of what is owned and of what is backed, the gather.
  private static func work(_ replica: Int, _ ranges: [Range<Int>], _ plane: DataPlane, lends: Bool) throws -> [Float] {
    let replicas = ranges.count
    let workers = ranges.indices.map { WorkerID(UInt32($0 + 1)) }
    let device = try CPUDevice(threads: 1, sharedMemory: lends ? LentTensors(plane) : nil)
    let owners = TensorOwnership.assign(sizes: sizes, replicas: replicas)
    let leaves = ranges.last?.upperBound ?? 0
    let group = try ReplicaGroup(
      link: plane, device: device, leaves: leaves, replicaLeaves: ranges, members: workers, replica: replica, stage: 0,
      tensors: spans, owners: owners)
    let values = try device.allocateShared(.float32, [total])
    let whole = try device.allocate(.float32, [total])
    let nodes = LeafTree(leaves: leaves).wholeSubtrees(in: ranges[replica])
    let gradients = try nodes.map { _ in try device.allocateShared(.float32, [total]) }
    let other = try device.allocate(.float32, [total])
    for step in 0..<3 as Range<Step> {
      for (node, gradient) in zip(nodes, gradients) {
        device.upload(Self.gradient(node.lowerBound, step: step), to: gradient)
        for leaf in node.dropFirst() {
          // Along the tree only where a node has two leaves, as all have here.
          device.upload(Self.gradient(leaf, step: step), to: other)
          device.add(other, to: gradient)
        }
      }
      try group.begin(step: step, partials: Array(zip(nodes, gradients)).map { (node: $0, gradient: $1) })
      for tensor in sizes.indices.reversed() { try group.finished(tensors: tensor..<tensor + 1) }
      let sums = gradients[try group.complete()]
      group.beginGather(step: step)
      for (round, members) in group.updateRounds.enumerated() {
        for member in members {
          device.add(
            sums.slice(at: member.flatOffset, shape: [member.count]),
            to: values.slice(at: member.flatOffset, shape: [member.count]))
        }
        try group.sendUpdated(round: round, values: values) { _ in }
      }
      try group.completeGather(values: values) { _ in }
      device.copy(values, to: whole)
    }
    // Whoever ends first keeps what others may still read.
    guard plane.drain(timeoutSeconds: 30) else { throw WorkerError.step(reason: "nobody took the last frames") }
    return try device.floats(whole)
  }

  private func run(_ ranges: [Range<Int>], lends: Bool) throws -> Outcome {
    let planes = try ranges.map { _ in try DataPlane(bind: "tcp://127.0.0.1:*") }
    defer { for plane in planes { plane.close() } }
    let workers = ranges.indices.map { WorkerID(UInt32($0 + 1)) }
    let peers = Dictionary(uniqueKeysWithValues: zip(workers, planes.map(\.endpoint)))
    for (plane, me) in zip(planes, workers) {
      try plane.enter(run: RunID("0123456789abcdef"), generation: Generation(1), me: me, peers: peers)
    }
    // Until everybody shares memory with everybody.
    for index in 0..<400 where planes.contains(where: { $0.counters.receivedPlacedFrames < UInt64(planes.count - 1) }) {
      for (plane, me) in zip(planes, workers) {
        for (other, worker) in zip(planes, workers) where worker != me {
          let key = FrameKey(kind: .state, step: 0, microbatch: UInt32(index))
          try [UInt8](repeating: 1, count: 4).withUnsafeBytes { try plane.send(key, to: worker, $0) }
          var bytes = [UInt8](repeating: 0, count: 4)
          try bytes.withUnsafeMutableBytes { try other.receive(key, from: me, into: $0) }
        }
      }
      Thread.sleep(forTimeInterval: 0.005)
    }
    let results = Results()
    let threads = DispatchGroup()
    for (replica, plane) in planes.enumerated() {
      threads.enter()
      Thread {
        do {
          let values = try Self.work(replica, ranges, plane, lends: lends)
          results.lock.withLock { results.values[replica] = values }
        } catch {
          results.lock.withLock { results.faults.append("\(replica): \(error)") }
          for plane in planes { plane.interrupt(reason: "another replica failed") }
        }
        threads.leave()
      }.start()
    }
    threads.wait()
    return Outcome(
      values: ranges.indices.map { results.values[$0] ?? [] }, lent: planes.map(\.counters.receivedLentFrames),
      faults: results.faults)
  }

  @Test(arguments: [[0..<2, 2..<4], [0..<1, 1..<2, 2..<4], [0..<1, 1..<2, 2..<3, 3..<4]] as [[Range<Int>]])
  func whatIsLentGivesTheBitsOfCopies(_ ranges: [Range<Int>]) throws {
    let copied = try run(ranges, lends: false)
    let lent = try run(ranges, lends: true)
    #expect(copied.faults.isEmpty && lent.faults.isEmpty, "\(copied.faults + lent.faults)")
    #expect(copied.lent.allSatisfy { $0 == 0 } && lent.lent.allSatisfy { $0 > 0 }, "\(lent.lent)")
    let expected = try #require(copied.values.first)
    #expect(expected.count == Self.total && expected.contains { $0 != 0 })
    for values in copied.values + lent.values { #expect(values.map(\.bitPattern) == expected.map(\.bitPattern)) }
  }
}
