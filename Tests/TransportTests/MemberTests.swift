import ClusterModel
import Foundation
import Testing
import Transport
import Wire

/// Workers with keys of their own, and nothing shared but sockets.
private struct Members {
  let pairs: [KeyPair]
  let planes: [DataPlane]
  let workers: [WorkerID]

  init(_ count: Int) throws {
    let pairs = try (0..<count).map { _ in try KeyPair.generate() }
    self.pairs = pairs
    planes = try pairs.map {
      try DataPlane(bind: "tcp://127.0.0.1:*", keys: $0, limits: DataPlaneLimits(sharedBytes: 0, retrySeconds: 1))
    }
    workers = (0..<count).map { WorkerID(UInt32($0 + 1)) }
  }
  func close() { for plane in planes { plane.close() } }

  /// Worker `index` enters a generation of `members`.
  func enter(_ index: Int, _ generation: UInt64, of members: [Int]) throws {
    try planes[index].enter(
      run: runA, generation: Generation(generation), me: workers[index],
      peers: Dictionary(uniqueKeysWithValues: members.map { (workers[$0], planes[$0].endpoint) }),
      publicKeys: Dictionary(uniqueKeysWithValues: members.map { (workers[$0], pairs[$0].publicKey) }))
  }
}

@Suite(.timeLimit(.minutes(3)), .serialized) struct MemberTests {
  @Test func framesOfEverySizeCrossEncrypted() throws {
    let members = try Members(2)
    defer { members.close() }
    for index in 0..<2 { try members.enter(index, 1, of: [0, 1]) }
    var noise = Noise(state: 4)
    for (index, size) in [0, 1, 1_000, 1 << 20, 5 << 20 | 3].enumerated() {
      let frame = noise.bytes(size)
      try members.planes[0].sendBytes(key(1, index), to: members.workers[1], frame)
      #expect(try members.planes[1].receiveBytes(key(1, index), from: members.workers[0], size) == frame)
    }
    #expect(members.planes[1].counters.receivedPlacedFrames == 0)
  }

  /// The first to enter is not let in by the others until they have entered, too.
  @Test func aMemberThatEntersLaterIsWaitedFor() throws {
    let members = try Members(2)
    defer { members.close() }
    try members.enter(0, 1, of: [0, 1])
    try members.planes[0].sendBytes(key(1), to: members.workers[1], [7])
    Thread.sleep(forTimeInterval: 1)
    try members.enter(1, 1, of: [0, 1])
    let began = ContinuousClock().now
    #expect(try members.planes[1].receiveBytes(key(1), from: members.workers[0], 1) == [7])
    // At once, not at the next attempt.
    #expect(ContinuousClock().now - began < .seconds(2))
  }

  @Test func aMemberThatEntersMuchLaterIsWaitedForToo() throws {
    let members = try Members(2)
    defer { members.close() }
    try members.enter(0, 1, of: [0, 1])
    try members.planes[0].sendBytes(key(1), to: members.workers[1], [7])
    // Longer than a handshake may take.
    Thread.sleep(forTimeInterval: 7)
    try members.enter(1, 1, of: [0, 1])
    #expect(try members.planes[1].receiveBytes(key(1), from: members.workers[0], 1) == [7])
  }

  @Test func onlyMembersGetIn() throws {
    let members = try Members(3)
    defer { members.close() }
    try members.enter(0, 1, of: [0, 1])
    try members.enter(1, 1, of: [0, 1])
    // It knows all names and addresses, and claims to be a member.
    let stranger = members.planes[2]
    try stranger.enter(
      run: runA, generation: Generation(1), me: members.workers[1],
      peers: [members.workers[0]: members.planes[0].endpoint],
      publicKeys: [members.workers[0]: members.pairs[0].publicKey])
    try stranger.sendBytes(key(1), to: members.workers[0], [6])
    try members.planes[1].sendBytes(key(2), to: members.workers[0], [5])
    #expect(try members.planes[0].receiveBytes(key(2), from: members.workers[1], 1) == [5])
    Thread.sleep(forTimeInterval: 1)
    #expect(!members.planes[0].hasArrived(key(1), from: members.workers[1]))
    #expect(members.planes[0].counters.receivedChunks == 1)
    // Nor does a socket that does not encrypt.
    let plain = try RawPeer(members.planes[0].endpoint)
    let before = members.planes[0].counters
    Thread.sleep(forTimeInterval: 0.3)
    #expect(members.planes[0].counters.garbageMessages == before.garbageMessages)
    withExtendedLifetime(plain) {}
  }

  @Test func whoIsDroppedIsOutWithTheNextGeneration() throws {
    let members = try Members(3)
    defer { members.close() }
    for index in 0..<3 { try members.enter(index, 1, of: [0, 1, 2]) }
    try members.planes[2].sendBytes(key(1), to: members.workers[0], [1])
    #expect(try members.planes[0].receiveBytes(key(1), from: members.workers[2], 1) == [1])
    for index in 0..<2 { try members.enter(index, 2, of: [0, 1]) }
    // It says that it is in the new generation, over the connection that it has.
    try members.enter(2, 2, of: [0, 1, 2])
    try members.planes[2].sendBytes(key(2), to: members.workers[0], [2])
    try members.planes[1].sendBytes(key(2), to: members.workers[0], [3])
    #expect(try members.planes[0].receiveBytes(key(2), from: members.workers[1], 1) == [3])
    Thread.sleep(forTimeInterval: 1)
    #expect(!members.planes[0].hasArrived(key(2), from: members.workers[2]))
  }

  @Test func aMemberCannotSpeakForAnother() throws {
    let members = try Members(3)
    defer { members.close() }
    for index in 0..<3 { try members.enter(index, 1, of: [0, 1, 2]) }
    let forger = try RawPeer(
      members.planes[0].endpoint, keys: ClientKeys(members.pairs[2], server: members.pairs[0].publicKey))
    let header = FrameHeader(
      purpose: .data, charged: true, run: RunTag(runA), generation: Generation(1), sender: members.workers[1],
      key: key(1), totalBytes: 1, chunkOffset: 0, chunkBytes: 1,
      payloadChecksum: [UInt8]([9]).withUnsafeBytes(FrameChecksum.of))
    var bytes = [UInt8](repeating: 0, count: FrameHeader.sizeBytes)
    bytes.withUnsafeMutableBytes { header.write(into: $0, checksum: FrameChecksum.of) }
    try forger.send([bytes, [9]])
    #expect(members.planes[0].eventually { $0.strangerFrames == 1 }, "\(members.planes[0].counters)")
    #expect(!members.planes[0].hasArrived(key(1), from: members.workers[1]))
  }

  @Test func aPeerWithoutAKeyIsAnError() throws {
    let members = try Members(2)
    defer { members.close() }
    #expect(throws: DataPlaneError.transport(.keyMissing(address: members.planes[1].endpoint))) {
      try members.planes[0].enter(
        run: runA, generation: Generation(1), me: members.workers[0],
        peers: [members.workers[1]: members.planes[1].endpoint])
    }
  }
}
