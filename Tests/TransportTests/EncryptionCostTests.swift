import ClusterModel
import Foundation
import Testing
import Transport

/// What encryption costs on this machine, beside the same transfer in plain text.
@Suite(.timeLimit(.minutes(2)), .serialized) struct EncryptionCostTests {
  @Test func throughputWithAndWithout() throws {
    var speeds: [Double] = []
    for encrypted in [false, true] {
      let pairs = try (0..<2).map { _ in try KeyPair.generate() }
      let planes = try pairs.map {
        try DataPlane(
          bind: "tcp://127.0.0.1:*", keys: encrypted ? $0 : nil, limits: DataPlaneLimits(sharedBytes: 0))
      }
      defer { for plane in planes { plane.close() } }
      let workers = [WorkerID(1), WorkerID(2)]
      for me in 0..<2 {
        try planes[me].enter(
          run: runA, generation: Generation(1), me: workers[me],
          peers: Dictionary(uniqueKeysWithValues: zip(workers, planes.map(\.endpoint))),
          publicKeys: Dictionary(uniqueKeysWithValues: zip(workers, pairs.map(\.publicKey))))
      }
      let frame = [UInt8](repeating: 1, count: 64 << 20)
      try planes[0].sendBytes(key(0), to: workers[1], [1])
      _ = try planes[1].receiveBytes(key(0), from: workers[0], 1)
      let start = ContinuousClock().now
      for round in 1...4 {
        try planes[0].sendBytes(key(Step(round)), to: workers[1], frame)
        #expect(try planes[1].receiveBytes(key(Step(round)), from: workers[0], frame.count) == frame)
      }
      speeds.append(4 * Double(frame.count) / ((ContinuousClock().now - start) / .seconds(1)))
    }
    print(String(format: "plain %.0f MB/s, encrypted %.0f MB/s over loopback", speeds[0] / 1e6, speeds[1] / 1e6))
    #expect(speeds[1] > 20e6)
  }
}
