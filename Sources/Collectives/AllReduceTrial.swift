import ClusterModel
import Compute

/// Times the all-reduce that training does: partial sums to the owners of the tensors, whose sums are gathered
/// by everybody, all into one flat tensor. Every member runs one, with the same numbers.
///
/// Confined to the thread that owns the device.
public final class AllReduceTrial {
  private let link: any Link
  private let device: any Device
  private let members: [WorkerID]
  private let replica: Int
  private let group: ReplicaGroup
  private let gradient: Tensor
  private var step: Step = 0
  private let clock = ContinuousClock()

  /// - Parameters:
  ///   - members: the workers that take part, each with one leaf.
  ///   - replica: which of them this is.
  ///   - elements: float32 elements that are reduced, in tensors of about 1 Mi.
  public init(link: any Link, device: any Device, members: [WorkerID], replica: Int, elements: Int) throws {
    self.link = link
    self.device = device
    self.members = members
    self.replica = replica
    let tensors = max(members.count, elements >> 20)
    let spans = (0..<tensors).map { index in
      let start = elements * index / tensors
      return TensorSpan(offset: start, count: elements * (index + 1) / tensors - start)
    }
    let owners = TensorOwnership.assign(sizes: spans.map(\.count), replicas: members.count)
    gradient = try device.allocate(.float32, [elements])
    group = try ReplicaGroup(
      link: link, device: device, leaves: members.count, replicaLeaves: members.indices.map { $0..<$0 + 1 },
      members: members, replica: replica, stage: 0, tensors: spans, owners: owners)
  }

  /// - Returns: seconds of each all-reduce, from a barrier on.
  public func run(repetitions: Int) throws -> [Double] {
    var seconds: [Double] = []
    for _ in 0..<repetitions {
      device.fill(gradient, with: Float(replica + 1))
      try device.wait()
      try barrier()
      let start = clock.now
      // In place: the sums stay in the gradient, and are gathered there.
      try group.reduce(step: step, partials: [(node: replica..<replica + 1, gradient: gradient)])
      try group.gather(step: step, values: gradient)
      try device.wait()
      seconds.append((clock.now - start) / .seconds(1))
      step += 1
    }
    return seconds
  }

  /// Whether every element is the sum of what the members put in.
  public func isCorrect() throws -> Bool {
    let expected = Float(members.count * (members.count + 1) / 2)
    return try device.floats(gradient).allSatisfy { $0 == expected }
  }

  /// - Returns: seconds of each exchange of a frame of so many bytes with the next member and back.
  public func roundTrips(repetitions: Int, byteCount: Int) throws -> [Double] {
    guard members.count > 1, replica < 2 else { return [] }
    let peer = members[1 - replica]
    var seconds: [Double] = []
    for _ in 0..<repetitions {
      let start = clock.now
      let key = FrameKey(kind: .activation, step: step)
      if replica == 0 {
        try link.send(key, to: [peer], byteCount: byteCount) { $0.initializeMemory(as: UInt8.self, repeating: 1) }
      }
      try link.withReceived(key, from: peer, byteCount: byteCount) { _, _ in }
      if replica == 1 {
        try link.send(key, to: [peer], byteCount: byteCount) { $0.initializeMemory(as: UInt8.self, repeating: 1) }
      }
      seconds.append((clock.now - start) / .seconds(1))
      step += 1
    }
    return seconds
  }

  private func barrier() throws {
    let key = FrameKey(kind: .state, step: step)
    let others = members.filter { $0 != members[replica] }
    guard !others.isEmpty else { return }
    try link.send(key, to: others, byteCount: 4) { $0.storeBytes(of: UInt32(1), as: UInt32.self) }
    for other in others { try link.withReceived(key, from: other, byteCount: 4) { _, _ in } }
  }
}
