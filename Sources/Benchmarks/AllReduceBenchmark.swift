import ClusterModel
import Collectives
import Compute
import Foundation
import Transport
import Worker

/// An all-reduce of float32 gradients between two processes over the data plane that training uses.
public struct AllReduceBenchmark: Sendable {
  public var mebibytes: [Int]
  public var trials: Int

  public init(mebibytes: [Int], trials: Int) {
    self.mebibytes = mebibytes
    self.trials = trials
  }

  /// What the second process is told on its command line.
  public static func peerArguments(_ endpoint: String, mebibytes: [Int], trials: Int) -> [String] {
    ["bench", "allreduce", "--peer-of", endpoint, "--trials", "\(trials)"] + mebibytes.flatMap { ["--size", "\($0)"] }
  }

  public func run(scope: BenchmarkScope, progress: (String) -> Void = { _ in }) throws -> BenchmarkReport {
    let plane = try DataPlane(bind: "tcp://127.0.0.1:*")
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    let output = Pipe()
    let peer = try scope.start(
      Self.peerArguments(plane.endpoint, mebibytes: mebibytes, trials: trials), output: output,
      log: folder + "/peer.log")
    // Otherwise a peer that failed would be waited for until the data plane gives up.
    peer.terminationHandler = { [weak plane] process in
      if process.terminationStatus != 0 { plane?.interrupt(reason: "the second process failed") }
    }
    // The peer's first line is its endpoint.
    var line: [UInt8] = []
    while let byte = try output.fileHandleForReading.read(upToCount: 1)?.first, byte != UInt8(ascii: "\n") {
      line.append(byte)
    }
    guard !line.isEmpty else {
      let text = (try? String(contentsOfFile: folder + "/peer.log", encoding: .utf8)) ?? ""
      throw BenchmarkError.processFailed(
        name: "second process", status: scope.wait(for: peer, seconds: 1),
        lastLine: text.split(separator: "\n").last.map(String.init) ?? "")
    }
    let member = try AllReduceMember(plane: plane, other: String(decoding: line, as: UTF8.self), replica: 0)
    var report = BenchmarkReport(
      benchmark: "allreduce", environment: BenchmarkEnvironment(fingerprint: member.device.fingerprint),
      settings: [("processes", "2"), ("threads", "1"), ("trials", "\(trials)")])
    for size in mebibytes {
      progress("\(size) MiB")
      let seconds = try member.measure(mebibytes: size, trials: trials)
      let gibibytes = Double(size) / 1024
      report.add("mib\(size).bestSeconds", seconds.best, "\(size) MiB, best", unit: "s")
      report.add("mib\(size).medianSeconds", seconds.median, "\(size) MiB, median", unit: "s")
      report.add(
        "mib\(size).gibibytesPerSecond", gibibytes / seconds.best, "\(size) MiB, best, of payload", unit: "GiB/s")
    }
    scope.wait(for: peer, seconds: 20)
    plane.close()
    return report
  }

  /// The second process: does as the first, and ends with it.
  /// - Parameters:
  ///   - endpoint: of the first process's data plane.
  ///   - announce: is given this one's endpoint, which the first must read.
  public func runPeer(of endpoint: String, announce: (String) throws -> Void) throws {
    let plane = try DataPlane(bind: "tcp://127.0.0.1:*")
    try announce(plane.endpoint)
    let member = try AllReduceMember(plane: plane, other: endpoint, replica: 1)
    for size in mebibytes { _ = try member.measure(mebibytes: size, trials: trials) }
    // The first process may not have read our last frame yet.
    guard plane.drain(timeoutSeconds: 20) else {
      throw BenchmarkError.timedOut(waitingFor: "the first process to take the last frame", seconds: 20)
    }
    plane.close()
  }

}

/// One of the two processes that sum.
package final class AllReduceMember {
  package let device: CPUDevice
  private let plane: DataPlane
  private let replica: Int
  private var step: Step = 0
  private var barriers: UInt32 = 0
  private static let workers = [WorkerID(1), WorkerID(2)]

  /// - Parameters:
  ///   - other: the other member's data endpoint.
  ///   - replica: 0 or 1, and not what the other is.
  package init(plane: DataPlane, other: String, replica: Int) throws {
    device = try CPUDevice(threads: 1, sharedMemory: LentTensors(plane))
    self.plane = plane
    self.replica = replica
    let peers = [Self.workers[1 - replica]: other, Self.workers[replica]: plane.endpoint]
    try plane.enter(
      run: RunID("00000000000000000000000000000001"), generation: Generation(1), me: Self.workers[replica],
      peers: peers)
  }

  /// A gradient of ones in member 0 and twos in member 1, which becomes the sum.
  package struct Sum {
    let group: ReplicaGroup
    let gradient: Tensor
  }

  package func prepare(mebibytes: Int) throws -> Sum {
    let tensor = 1 << 20  // 4 MiB: as large as a matrix of a small model
    let tensors = max(mebibytes * (1 << 18) / tensor, 1)
    let spans = (0..<tensors).map { TensorSpan(offset: $0 * tensor, count: tensor) }
    let owners = TensorOwnership.assign(sizes: spans.map(\.count), replicas: 2)
    let group = try ReplicaGroup(
      link: plane, device: device, leaves: 2, replicaLeaves: [0..<1, 1..<2], members: Self.workers, replica: replica,
      stage: 0, tensors: spans, owners: owners)
    return Sum(group: group, gradient: try device.allocateShared(.float32, [tensors * tensor]))
  }

  /// Sums once; both members must.
  /// - Parameter begin: is called before the other member can begin.
  /// - Returns: the slower member's seconds.
  package func trial(_ sum: Sum, begin: () -> Void = {}) throws -> Double {
    device.fill(sum.gradient, with: Float(replica + 1))
    begin()
    try barrier()
    let clock = ContinuousClock()
    let start = clock.now
    try sum.group.allReduce(step: step, partials: [(replica..<replica + 1, sum.gradient)])
    try device.wait()
    let mine = (clock.now - start) / .seconds(1)
    step += 1
    return max(mine, try exchange(mine))
  }

  /// Sums several times, and checks the last result.
  func measure(mebibytes: Int, trials count: Int) throws -> Trials {
    let sum = try prepare(mebibytes: mebibytes)
    var trials = Trials()
    // One more than is counted: the first touches memory for the first time.
    for number in 0...count {
      let seconds = try trial(sum)
      if number > 0 { trials.add(seconds) }
    }
    try check(sum)
    return trials
  }

  package func check(_ sum: Sum) throws {
    let piece = 1 << 20
    for start in stride(from: 0, to: sum.gradient.count, by: piece) {
      let values = try device.floats(sum.gradient.slice(at: start, shape: [piece]))
      guard let wrong = values.firstIndex(where: { $0 != 3 }) else { continue }
      throw BenchmarkError.wrongResult(
        reason: "element \(start + wrong) of the sum is \(values[wrong]), not 3")
    }
  }

  private func barrier() throws { _ = try exchange(0) }

  /// Gives the other member a number and takes its own.
  private func exchange(_ value: Double) throws -> Double {
    barriers += 1
    let key = FrameKey(kind: .state, step: step, part: barriers)
    try withUnsafeBytes(of: value) { try plane.send(key, to: Self.workers[1 - replica], $0) }
    var theirs = 0.0
    try withUnsafeMutableBytes(of: &theirs) { try plane.receive(key, from: Self.workers[1 - replica], into: $0) }
    return theirs
  }
}
