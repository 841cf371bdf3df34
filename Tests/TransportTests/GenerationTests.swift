import ClusterModel
import Foundation
import Testing
import Transport
import Wire

@Suite(.timeLimit(.minutes(3)), .serialized) struct GenerationTests {
  @Test func framesForAPeerThatEntersLaterWaitForIt() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try cluster.enter(0, 2)
    let frame = [UInt8](repeating: 3, count: 3 << 20)
    try cluster.planes[0].sendBytes(key(1), to: WorkerID(2), frame)
    Thread.sleep(forTimeInterval: 0.2)
    #expect(cluster.planes[1].counters.receivedBytes == 0)
    try cluster.enter(1, 2)
    #expect(try cluster.planes[1].receiveBytes(key(1), from: WorkerID(1), frame.count) == frame)
    #expect(cluster.planes[1].counters.earlyFrames == 0)
  }

  @Test func framesOfAnOlderGenerationAreNeverDelivered() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try cluster.planes[0].sendBytes(key(1), to: WorkerID(2), [1, 1, 1])
    #expect(cluster.planes[1].eventually { $0.receivedChunks == 1 })
    try cluster.enter(1, 2)
    try cluster.planes[0].sendBytes(key(1, 1), to: WorkerID(2), [1, 1, 1])
    #expect(cluster.planes[1].eventually { $0.staleFrames >= 1 })
    #expect(throws: DataPlaneError.self) {
      try cluster.planes[1].receiveBytes(key(1), from: WorkerID(1), 3, timeoutSeconds: 0.2)
    }
    try cluster.enter(0, 2)
    try cluster.planes[0].sendBytes(key(1), to: WorkerID(2), [2, 2, 2])
    #expect(try cluster.planes[1].receiveBytes(key(1), from: WorkerID(1), 3) == [2, 2, 2])
  }

  @Test func aWaitIsOvertakenByANewGeneration() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let threads = Threads()
    let plane = cluster.planes[0]
    threads.start {
      #expect(throws: DataPlaneError.superseded(by: Generation(5))) {
        try plane.receiveBytes(key(1), from: WorkerID(2), 10)
      }
    }
    Thread.sleep(forTimeInterval: 0.1)
    try cluster.enter(0, 5)
    try threads.join(seconds: 20)
    #expect(throws: DataPlaneError.superseded(by: Generation(5))) { try cluster.enter(0, 5) }
    #expect(throws: DataPlaneError.superseded(by: Generation(5))) { try cluster.enter(0, 4) }
  }

  @Test func manyGenerationsOneAfterTheOther() throws {
    let cluster = try Cluster(3, enter: nil)
    defer { cluster.close() }
    for generation in 1...20 {
      // In another order each time, so that everybody is first and last once.
      for offset in 0..<3 { try cluster.enter((generation + offset) % 3, UInt64(generation)) }
      let threads = Threads()
      for me in 0..<3 {
        let (plane, workers) = (cluster.planes[me], cluster.workers)
        threads.start {
          let mine = [UInt8](repeating: UInt8(generation * 3 + me), count: 200_000)
          for other in 0..<3 where other != me { try plane.sendBytes(key(1), to: workers[other], mine) }
          for other in 0..<3 where other != me {
            let theirs = try plane.receiveBytes(key(1), from: workers[other], 200_000)
            #expect(theirs.allSatisfy { $0 == UInt8(generation * 3 + other) })
          }
        }
      }
      try threads.join(seconds: 30)
    }
  }
}

@Suite(.timeLimit(.minutes(3)), .serialized) struct HostileFrameTests {
  private func header(_ change: (inout FrameHeader) -> Void = { _ in }) -> FrameHeader {
    var header = FrameHeader(
      purpose: .data, charged: true, run: RunTag(runA), generation: Generation(1), sender: WorkerID(2), key: key(1),
      totalBytes: 4, chunkOffset: 0, chunkBytes: 4, payloadChecksum: checksum([9, 9, 9, 9]))
    change(&header)
    return header
  }
  private func checksum(_ bytes: [UInt8]) -> UInt32 { bytes.withUnsafeBytes(FrameChecksum.of) }
  private func bytes(_ header: FrameHeader) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: FrameHeader.sizeBytes)
    bytes.withUnsafeMutableBytes { header.write(into: $0, checksum: FrameChecksum.of) }
    return bytes
  }

  @Test func garbageToEverySocketDisturbsNobody() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let strangers = try cluster.planes.map { try RawPeer($0.endpoint) }
    var noise = Noise(state: 99)
    let good = bytes(header { $0.sender = WorkerID(77) })
    for round in 0..<400 {
      for stranger in strangers {
        switch round % 4 {
        case 0: try stranger.send([noise.bytes(round)])
        case 1: try stranger.send([noise.bytes(88), noise.bytes(round)])
        case 2: try stranger.send((0..<6).map { _ in noise.bytes(3) })
        default:
          // Ours but for one flipped bit.
          var damaged = good
          damaged[round * 13 % damaged.count] ^= 1 << UInt8(round / 4 % 8)
          try stranger.send([damaged, [9, 9, 9, 9]])
        }
      }
      if round % 50 == 0 {
        try cluster.planes[0].sendBytes(key(2, round), to: WorkerID(2), noise.bytes(100_000))
        #expect(try cluster.planes[1].receiveBytes(key(2, round), from: WorkerID(1), 100_000).count == 100_000)
      }
    }
    for plane in cluster.planes { #expect(plane.eventually { $0.garbageMessages == 400 }) }
  }

  @Test func framesThatAreNotForUsAreDroppedByKind() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let plane = cluster.planes[0]
    let stranger = try RawPeer(plane.endpoint)
    // The I/O thread has entered the generation once something came through.
    try cluster.planes[1].sendBytes(key(7), to: WorkerID(1), [1])
    _ = try plane.receiveBytes(key(7), from: WorkerID(2), 1)
    let payload: [UInt8] = [9, 9, 9, 9]
    try stranger.send([bytes(header { $0.run = RunTag(RunID("another")) }), payload])
    try stranger.send([bytes(header { $0.sender = WorkerID(55) }), payload])
    try stranger.send([bytes(header { $0.generation = Generation(0) }), payload])
    try stranger.send([bytes(header { $0.generation = Generation(2) }), payload])
    // Not paid for, and nobody waits for it.
    try stranger.send([bytes(header { $0.charged = false }), payload])
    // The payload is shorter than announced.
    try stranger.send([bytes(header()), [9]])
    try stranger.send([bytes(header { $0.purpose = .grant })])
    try stranger.send([
      bytes(
        header {
          $0.purpose = .open
          $0.sender = WorkerID(55)
        })
    ])
    #expect(
      plane.eventually {
        $0.strangerFrames == 3 && $0.staleFrames == 1 && $0.earlyFrames == 1 && $0.violations == 1
          && $0.garbageMessages == 2
      }, "\(plane.counters)")
    #expect(plane.counters.receivedChunks == 1)
  }

  @Test func aPeerThatExceedsItsWindowIsCutShort() throws {
    let window = 2 << 20
    let cluster = try Cluster(2, limits: DataPlaneLimits(windowBytes: window))
    defer { cluster.close() }
    let stranger = try RawPeer(cluster.planes[0].endpoint)
    let payload = [UInt8](repeating: 1, count: 1 << 20)
    for index in 0..<10 {
      let header = header {
        $0.key = key(1, index)
        $0.totalBytes = payload.count
        $0.chunkBytes = payload.count
      }
      try stranger.send([bytes(header), payload])
    }
    #expect(cluster.planes[0].eventually { $0.violations == 9 })
    #expect(cluster.planes[0].counters.heldBytesPeak <= window)
  }

  @Test func aDamagedPayloadIsAnErrorAndNotAWrongSum() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let plane = cluster.planes[0]
    let stranger = try RawPeer(plane.endpoint)
    try stranger.send([bytes(header()), [9, 9, 9, 8]])
    #expect(
      throws: DataPlaneError.corrupted(key: key(1), from: WorkerID(2), reason: "checksum of the chunk at byte 0")
    ) { try plane.receiveBytes(key(1), from: WorkerID(2), 4) }
  }

  @Test func chunksThatDoNotContinueTheirFrameAreNotTaken() throws {
    let cluster = try Cluster(2, limits: DataPlaneLimits(retrySeconds: 0.1))
    defer { cluster.close() }
    let plane = cluster.planes[0]
    let stranger = try RawPeer(plane.endpoint)
    // One is missing in between, one comes twice; the last one and what it frees show that all were seen.
    for offset in [0, 8, 0, 4] {
      let header = header {
        $0.key = key(2)
        $0.totalBytes = 12
        $0.chunkOffset = offset
      }
      try stranger.send([bytes(header), [9, 9, 9, 9]])
    }
    #expect(plane.eventually { $0.receivedChunks == 2 && $0.repeatedChunks == 2 }, "\(plane.counters)")
    #expect(
      throws: DataPlaneError.timedOut(
        key: key(2), from: WorkerID(2), seconds: 0.5, receivedBytes: 8, expectedBytes: 12)
    ) { try plane.receiveBytes(key(2), from: WorkerID(2), 12, timeoutSeconds: 0.5) }
    #expect(plane.counters.resendRequests > 0)
    // One frame, two sizes.
    try stranger.send([bytes(header { $0.key = key(3) }), [9, 9, 9, 9]])
    try stranger.send([
      bytes(
        header {
          $0.key = key(3)
          $0.totalBytes = 8
          $0.chunkOffset = 4
        }), [9, 9, 9, 9],
    ])
    #expect(plane.eventually { $0.repeatedChunks == 3 })
    #expect(throws: DataPlaneError.self) { try plane.receiveBytes(key(3), from: WorkerID(2), 4) }
  }
}

@Suite struct FrameChecksumTests {
  @Test func theInstructionAgreesWithTheTableAndTheStandard() {
    #expect(Array("123456789".utf8).withUnsafeBytes(FrameChecksum.of) == 0xE306_9283)
    #expect([UInt8](repeating: 0, count: 32).withUnsafeBytes(FrameChecksum.of) == 0x8A91_36AA)
    #expect([UInt8]().withUnsafeBytes(FrameChecksum.of) == 0)
    var noise = Noise(state: 5)
    for count in 0..<300 {
      let bytes = noise.bytes(count)
      #expect(bytes.withUnsafeBytes(FrameChecksum.of) == bytes.withUnsafeBytes(FrameChecksum.portable))
    }
  }
}
