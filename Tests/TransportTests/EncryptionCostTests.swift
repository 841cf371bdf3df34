import ClusterModel
import Foundation
import Testing
import Transport

/// What encryption costs on this machine, beside the same transfer in plain text.
@Suite(.timeLimit(.minutes(2)), .serialized) struct EncryptionCostTests {
  @Test func throughputWithAndWithout() throws {
    // By the processor's time, so that it does not matter who else is at work.
    var secondsPerGigabyte: [Double] = []
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
      let start = clock()
      for round in 1...4 {
        try planes[0].sendBytes(key(Step(round)), to: workers[1], frame)
        #expect(try planes[1].receiveBytes(key(Step(round)), from: workers[0], frame.count) == frame)
      }
      secondsPerGigabyte.append(Double(clock() - start) / Double(CLOCKS_PER_SEC) / (4 * Double(frame.count) / 1e9))
    }
    let text = secondsPerGigabyte.map { String(format: "%.2f", $0) }
    print("both ends together: plain \(text[0]) processor seconds a GB, encrypted \(text[1])")
    // Ten times what it is where it was measured: a handshake for each message, say, would be more.
    #expect(secondsPerGigabyte[1] < 60)
  }
}
