import CSystem
import ClusterModel
import Foundation
import Testing
import Transport
import Wire

/// Lines that a data plane had to say.
// Safe because the lines are reached under the lock only.
private final class Notes: @unchecked Sendable {
  private let lock = NSLock()
  private var list: [String] = []
  func add(_ line: String) { lock.withLock { list.append(line) } }
  var lines: [String] { lock.withLock { list } }
}

private struct Abandoned: Error {}

@Suite(.timeLimit(.minutes(3)), .serialized) struct SharedMemoryTests {
  /// Exchanges frames until they are placed.
  private func warm(_ cluster: Cluster, _ step: Step = 900) throws {
    for index in 0..<200 where cluster.planes[1].counters.receivedPlacedFrames == 0 {
      try cluster.planes[0].sendBytes(key(step, index), to: cluster.workers[1], [1, 2, 3])
      _ = try cluster.planes[1].receiveBytes(key(step, index), from: cluster.workers[0], 3)
      Thread.sleep(forTimeInterval: 0.01)
    }
    try #require(cluster.planes[1].counters.receivedPlacedFrames > 0)
  }

  private func pieces(
    _ plane: DataPlane, _ key: FrameKey, from worker: WorkerID, _ count: Int
  ) throws -> (bytes: [UInt8], pieces: Int) {
    var bytes: [UInt8] = []
    var pieces = 0
    try plane.withReceived(key, from: worker, byteCount: count) { piece, offset in
      #expect(offset == bytes.count && offset % 4 == 0)
      #expect(UInt(bitPattern: piece.baseAddress) % 4 == 0)
      bytes += piece
      pieces += 1
    }
    return (bytes, pieces)
  }

  @Test func whoDrainsBeforeItClosesLosesNothing() throws {
    for sharedBytes in [0, 64 << 20] {
      let cluster = try Cluster(2, limits: DataPlaneLimits(sharedBytes: sharedBytes))
      defer { cluster.close() }
      if sharedBytes > 0 { try warm(cluster) }
      let (sender, receiver) = (cluster.planes[0], cluster.planes[1])
      let bytes = [UInt8](repeating: 7, count: 100_000)
      try sender.sendBytes(key(1, 1), to: cluster.workers[1], bytes)
      #expect(!sender.drain(timeoutSeconds: 0.05), "nobody has taken it")
      let closing = Thread {
        if sender.drain(timeoutSeconds: 60) { sender.close() }
      }
      closing.start()
      var first = true
      try receiver.withReceived(key(1, 1), from: cluster.workers[0], byteCount: bytes.count) { piece, _ in
        // As if the reader's thread had no turn for a while.
        if first { Thread.sleep(forTimeInterval: 0.1) }
        first = false
        #expect(piece.allSatisfy { $0 == 7 })
      }
      #expect(sender.drain(timeoutSeconds: 60))
    }
  }

  @Test func framesOfOneHostArePlacedAndEqualThoseOfSockets() throws {
    var noise = Noise(state: 12)
    let frames = [1, 3, 64, 4_095, 4_096, 70_001, 1 << 20, 5 << 20 | 77].map { noise.bytes($0) }
    var received: [[[UInt8]]] = []
    for sharedBytes in [0, 64 << 20] {
      let cluster = try Cluster(2, limits: DataPlaneLimits(sharedBytes: sharedBytes))
      defer { cluster.close() }
      if sharedBytes > 0 { try warm(cluster) }
      let before = cluster.planes[1].counters
      var list: [[UInt8]] = []
      for (index, frame) in frames.enumerated() {
        try cluster.planes[0].send(key(1, index), to: [cluster.workers[1]], byteCount: frame.count) {
          #expect($0.count == frame.count && UInt(bitPattern: $0.baseAddress) % 64 == 0)
          $0.copyBytes(from: frame)
        }
        let result = try pieces(cluster.planes[1], key(1, index), from: cluster.workers[0], frame.count)
        #expect(sharedBytes == 0 || result.pieces == 1)
        list.append(result.bytes)
      }
      let placed = cluster.planes[1].counters.receivedPlacedFrames - before.receivedPlacedFrames
      #expect(placed == (sharedBytes > 0 ? UInt64(frames.count) : 0))
      #expect(cluster.planes[0].eventually { $0.queuedBytes == 0 })
      received.append(list)
    }
    #expect(received[0] == frames && received[1] == frames)
  }

  @Test func oneFrameForSeveralIsWrittenOnce() throws {
    let cluster = try Cluster(3)
    defer { cluster.close() }
    try warm(cluster)
    var noise = Noise(state: 3)
    let frame = noise.bytes(1 << 20)
    var fills = 0
    try cluster.planes[0].send(key(1), to: Array(cluster.workers.dropFirst()), byteCount: frame.count) {
      $0.copyBytes(from: frame)
      fills += 1
    }
    #expect(fills == 1)
    #expect(cluster.planes[0].counters.queuedBytes <= frame.count)
    for receiver in 1...2 {
      #expect(try cluster.planes[receiver].receiveBytes(key(1), from: cluster.workers[0], frame.count) == frame)
    }
    #expect(cluster.planes[0].eventually { $0.queuedBytes == 0 })
  }

  @Test func aFillThatThrowsSendsNothing() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try warm(cluster)
    #expect(throws: Abandoned.self) {
      try cluster.planes[0].send(key(1), to: [WorkerID(2)], byteCount: 100) { _ in throw Abandoned() }
    }
    #expect(cluster.planes[0].eventually { $0.queuedBytes == 0 })
    #expect(!cluster.planes[1].hasArrived(key(1), from: WorkerID(1)))
    try cluster.planes[0].sendBytes(key(1), to: WorkerID(2), [7])
    #expect(try cluster.planes[1].receiveBytes(key(1), from: WorkerID(1), 1) == [7])
  }

  @Test func aSteadyStreamUsesTheSameMemoryAgain() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try warm(cluster)
    let shared = cluster.planes[0].counters.sharedBytes
    #expect(shared > 0)
    let frame = [UInt8](repeating: 9, count: 3 << 20)
    for index in 0..<100 {
      try cluster.planes[0].sendBytes(key(1, index), to: WorkerID(2), frame)
      try cluster.planes[0].sendBytes(key(2, index), to: WorkerID(2), [1])
      #expect(try cluster.planes[1].receiveBytes(key(2, index), from: WorkerID(1), 1) == [1])
      #expect(try cluster.planes[1].receiveBytes(key(1, index), from: WorkerID(1), frame.count) == frame)
    }
    #expect(cluster.planes[0].counters.sharedBytes == shared)
  }

  /// Nothing has a name, so nothing is left when a process is killed.
  @Test func sharedMemoryHasNoName() throws {
    func listing() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: "/dev/shm").sorted() }
    let before = try listing()
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try warm(cluster)
    #expect(try listing() == before)
  }

  @Test func whatDoesNotFitGoesThroughSockets() throws {
    let limits = DataPlaneLimits(windowBytes: 4 << 20, sharedBytes: 8 << 20)
    let cluster = try Cluster(2, limits: limits)
    defer { cluster.close() }
    try warm(cluster)
    let before = cluster.planes[1].counters.receivedPlacedFrames
    var noise = Noise(state: 4)
    let frames = (0..<20).map { _ in noise.bytes(1 << 20) }
    for (index, frame) in frames.enumerated() {
      try cluster.planes[0].sendBytes(key(1, index), to: WorkerID(2), frame)
    }
    #expect(cluster.planes[0].counters.sharedBytes == 8 << 20)
    for (index, frame) in frames.enumerated().reversed() {
      #expect(try cluster.planes[1].receiveBytes(key(1, index), from: WorkerID(1), frame.count) == frame)
    }
    let placed = cluster.planes[1].counters.receivedPlacedFrames - before
    #expect(placed > 0 && placed < 20)
    #expect(cluster.planes[0].eventually { $0.queuedBytes == 0 })
  }

  @Test func aPeerThatCannotMapIsServedThroughSockets() throws {
    let notes = Notes()
    let sender = try DataPlane(bind: "tcp://127.0.0.1:*", note: notes.add)
    // Accepts invitations, but not so much of a peer's memory.
    let receiver = try DataPlane(
      bind: "tcp://127.0.0.1:*", limits: DataPlaneLimits(sharedBytes: 1 << 20), note: notes.add)
    defer {
      sender.close()
      receiver.close()
    }
    let peers = [WorkerID(1): sender.endpoint, WorkerID(2): receiver.endpoint]
    try sender.enter(run: runA, generation: Generation(1), me: WorkerID(1), peers: peers)
    try receiver.enter(run: runA, generation: Generation(1), me: WorkerID(2), peers: peers)
    var noise = Noise(state: 6)
    for index in 0..<60 {
      let frame = noise.bytes(300_000)
      try sender.sendBytes(key(1, index), to: WorkerID(2), frame)
      #expect(try receiver.receiveBytes(key(1, index), from: WorkerID(1), frame.count) == frame)
      Thread.sleep(forTimeInterval: 0.005)
    }
    #expect(receiver.counters.receivedPlacedFrames == 0)
    #expect(receiver.counters.refusedSegments >= 1)
    #expect(notes.lines.contains { $0.contains("through sockets") }, "\(notes.lines)")
    #expect(sender.eventually { $0.queuedBytes == 0 })
  }

  @Test func whatItsSenderTookBackIsNotUsed() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try warm(cluster)
    try cluster.planes[0].sendBytes(key(1), to: WorkerID(2), [UInt8](repeating: 1, count: 1 << 20))
    #expect(cluster.planes[1].eventually { _ in cluster.planes[1].hasArrived(key(1), from: WorkerID(1)) })
    #expect(throws: DataPlaneError.self) {
      try cluster.planes[1].withReceived(key(1), from: WorkerID(1), byteCount: 1 << 20) { _, _ in
        // The sender forgets its frames and writes others in their place.
        try cluster.enter(0, 2)
        #expect(cluster.planes[0].eventually { $0.queuedBytes == 0 })
      }
    }
  }

  @Test func aSegmentOfAnotherKindHasItsOwnLimit() throws {
    let notes = Notes()
    let sender = try DataPlane(bind: "tcp://127.0.0.1:*", note: notes.add)
    let receiver = try DataPlane(
      bind: "tcp://127.0.0.1:*", limits: DataPlaneLimits(lentBytes: 1 << 20), note: notes.add)
    defer {
      sender.close()
      receiver.close()
    }
    let peers = [WorkerID(1): sender.endpoint, WorkerID(2): receiver.endpoint]
    try sender.enter(run: runA, generation: Generation(1), me: WorkerID(1), peers: peers)
    try receiver.enter(run: runA, generation: Generation(1), me: WorkerID(2), peers: peers)
    for index in 0..<200 where receiver.counters.receivedPlacedFrames == 0 {
      try sender.sendBytes(key(2, index), to: WorkerID(2), [1])
      #expect(try receiver.receiveBytes(key(2, index), from: WorkerID(1), 1) == [1])
      Thread.sleep(forTimeInterval: 0.01)
    }
    let memory = try #require(sender.lendableMemory(byteCount: 2 << 20))
    defer { withExtendedLifetime(memory) {} }
    var noise = Noise(state: 8)
    let bytes = noise.bytes(2 << 20)
    UnsafeMutableRawBufferPointer(start: memory.address, count: bytes.count).copyBytes(from: bytes)
    // It cannot map the tensor: what was lent is copied for it after all.
    for index in 0..<3 {
      try sender.lend(key(1, index), to: [WorkerID(2)], [.init(start: memory.address, count: bytes.count)])
      #expect(try receiver.receiveBytes(key(1, index), from: WorkerID(1), bytes.count) == bytes)
    }
    #expect(receiver.counters.receivedLentFrames == 0 && receiver.counters.refusedSegments >= 1)
    #expect(notes.lines.contains { $0.contains("through sockets") }, "\(notes.lines)")
    #expect(sender.eventually { $0.queuedBytes == 0 })
  }

  @Test func aPeerThatGoesAwayInTheMiddleEndsTheWait() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    try warm(cluster)
    let (sender, receiver) = (cluster.planes[0], cluster.planes[1])
    try sender.sendBytes(key(1), to: WorkerID(2), [UInt8](repeating: 1, count: 1 << 20))
    #expect(receiver.eventually { _ in receiver.hasArrived(key(1), from: WorkerID(1)) })
    // It takes back what was not taken; what never came is not awaited for ever.
    sender.close()
    #expect(throws: DataPlaneError.self) { try receiver.receiveBytes(key(1), from: WorkerID(1), 1 << 20) }
    #expect(throws: DataPlaneError.self) {
      try receiver.receiveBytes(key(2), from: WorkerID(1), 10, timeoutSeconds: 0.3)
    }
  }
}

@Suite(.timeLimit(.minutes(3)), .serialized) struct LendingTests {
  private func start(_ count: Int = 2, sharedBytes: Int = 64 << 20) throws -> Cluster {
    let cluster = try Cluster(count, limits: DataPlaneLimits(sharedBytes: sharedBytes))
    guard sharedBytes > 0 else { return cluster }
    for receiver in 1..<count {
      for index in 0..<200 where cluster.planes[receiver].counters.receivedPlacedFrames == 0 {
        try cluster.planes[0].sendBytes(key(900, index), to: cluster.workers[receiver], [1, 2, 3])
        _ = try cluster.planes[receiver].receiveBytes(key(900, index), from: cluster.workers[0], 3)
        Thread.sleep(forTimeInterval: 0.01)
      }
      try #require(cluster.planes[receiver].counters.receivedPlacedFrames > 0)
    }
    return cluster
  }
  private func fill(_ memory: LendableMemory, _ bytes: [UInt8]) {
    UnsafeMutableRawBufferPointer(start: memory.address, count: memory.byteCount).copyBytes(from: bytes)
  }
  /// Bytes that lie there as long as the caller keeps the memory.
  private func part(_ memory: LendableMemory, _ range: Range<Int>) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(start: memory.address + range.lowerBound, count: range.count)
  }

  @Test func lentFramesAreReadWhereTheyLieAndEqualCopies() throws {
    var noise = Noise(state: 9)
    let bytes = [noise.bytes(1 << 20), noise.bytes(70_000)]
    let ranges = [(0, 4..<1_000_000), (1, 0..<70_000), (0, 1_000_000..<1_000_004)]
    let expected = ranges.flatMap { bytes[$0][$1] }
    for sharedBytes in [0, 64 << 20] {
      let cluster = try start(3, sharedBytes: sharedBytes)
      defer { cluster.close() }
      let sender = cluster.planes[0]
      let others = Array(cluster.workers.dropFirst())
      // Without shared memory there is none to lend, and what lies elsewhere is copied.
      let memories = bytes.compactMap { sender.lendableMemory(byteCount: $0.count) }
      defer { withExtendedLifetime(memories) {} }
      #expect(memories.count == (sharedBytes > 0 ? 2 : 0))
      try bytes[0].withUnsafeBytes { first in
        try bytes[1].withUnsafeBytes { second in
          for (memory, content) in zip(memories, bytes) {
            #expect(
              part(memory, 0..<memory.byteCount).allSatisfy { $0 == 0 } && UInt(bitPattern: memory.address) % 4_096 == 0
            )
            fill(memory, content)
          }
          let pieces = ranges.map { index, range in
            memories.isEmpty
              ? UnsafeRawBufferPointer(rebasing: (index == 0 ? first : second)[range]) : part(memories[index], range)
          }
          for index in 0..<5 { try sender.lend(key(1, index), to: others, pieces) }
        }
      }
      for (receiver, plane) in cluster.planes.enumerated().dropFirst() {
        for index in 0..<5 {
          var received: [UInt8] = []
          var count = 0
          try plane.withReceived(key(1, index), from: cluster.workers[0], byteCount: expected.count) { piece, offset in
            #expect(offset == received.count)
            received += piece
            count += 1
          }
          #expect(received == expected, "to \(receiver)")
          #expect(sharedBytes == 0 || count == ranges.count)
        }
        #expect(plane.counters.receivedLentFrames == (sharedBytes > 0 ? 5 : 0))
        #expect(plane.eventually { $0.mappedBytes > bytes[0].count || sharedBytes == 0 })
      }
      #expect(sender.eventually { $0.queuedBytes == 0 })
    }
  }

  @Test func whatLiesOutsideIsCopied() throws {
    let cluster = try start()
    defer { cluster.close() }
    let memory = try #require(cluster.planes[0].lendableMemory(byteCount: 4_096))
    defer { withExtendedLifetime(memory) {} }
    fill(memory, [UInt8](repeating: 3, count: 4_096))
    let mine = [UInt8](repeating: 4, count: 64)
    try mine.withUnsafeBytes { try cluster.planes[0].lend(key(1), to: [WorkerID(2)], [part(memory, 0..<64), $0]) }
    #expect(
      try cluster.planes[1].receiveBytes(key(1), from: WorkerID(1), 128)
        == [UInt8](repeating: 3, count: 64) + mine)
    #expect(cluster.planes[1].counters.receivedLentFrames == 0)
  }

  @Test func emptyAndOddPiecesArriveAsWell() throws {
    let cluster = try start()
    defer { cluster.close() }
    let memory = try #require(cluster.planes[0].lendableMemory(byteCount: 4_096))
    defer { withExtendedLifetime(memory) {} }
    fill(memory, [UInt8](repeating: 3, count: 4_096))
    for (index, ranges) in [[0..<8, 8..<8, 8..<12], [0..<0], [0..<7], [2..<6]].enumerated() {
      let count = ranges.reduce(0) { $0 + $1.count }
      try cluster.planes[0].lend(key(1, index), to: [WorkerID(2)], ranges.map { part(memory, $0) })
      #expect(
        try cluster.planes[1].receiveBytes(key(1, index), from: WorkerID(1), count)
          == [UInt8](repeating: 3, count: count))
    }
    #expect(cluster.planes[1].counters.receivedLentFrames == 1)
    #expect(cluster.planes[1].counters.violations == 0)
  }

  /// The receiver turns out not to be able to map what was lent, and has no room for it: when there is, it has changed.
  @Test func whatWasTakenBackIsNotCopiedEither() throws {
    let chunk = 4_096
    let sender = try DataPlane(bind: "tcp://127.0.0.1:*", limits: DataPlaneLimits(chunkBytes: chunk))
    let receiver = try DataPlane(
      bind: "tcp://127.0.0.1:*",
      limits: DataPlaneLimits(chunkBytes: chunk, windowBytes: chunk + FrameHeader.sizeBytes, lentBytes: 0))
    defer {
      sender.close()
      receiver.close()
    }
    let peers = [WorkerID(1): sender.endpoint, WorkerID(2): receiver.endpoint]
    try sender.enter(run: runA, generation: Generation(1), me: WorkerID(1), peers: peers)
    try receiver.enter(run: runA, generation: Generation(1), me: WorkerID(2), peers: peers)
    for index in 0..<200 where receiver.counters.receivedPlacedFrames == 0 {
      try sender.sendBytes(key(2, index), to: WorkerID(2), [1])
      #expect(try receiver.receiveBytes(key(2, index), from: WorkerID(1), 1) == [1])
      Thread.sleep(forTimeInterval: 0.01)
    }
    let memory = try #require(sender.lendableMemory(byteCount: chunk))
    defer { withExtendedLifetime(memory) {} }
    try sender.lend(key(1), to: [WorkerID(2)], [part(memory, 0..<chunk)])
    // Takes some of the window, so that a whole chunk finds no room before it is taken.
    try sender.sendBytes(key(3), to: WorkerID(2), [1])
    #expect(receiver.eventually { $0.refusedSegments >= 1 })
    #expect(receiver.eventually { _ in receiver.hasArrived(key(3), from: WorkerID(1)) })
    sender.takeBackLent()
    fill(memory, [UInt8](repeating: 9, count: chunk))
    #expect(try receiver.receiveBytes(key(3), from: WorkerID(1), 1) == [1])
    #expect(throws: DataPlaneError.self) {
      try receiver.receiveBytes(key(1), from: WorkerID(1), chunk, timeoutSeconds: 0.5)
    }
  }

  @Test func lentMemoryOutlivesItsOwnerUntilItIsTaken() throws {
    let cluster = try start()
    defer { cluster.close() }
    var memory = cluster.planes[0].lendableMemory(byteCount: 1 << 20)
    fill(try #require(memory), [UInt8](repeating: 5, count: 1 << 20))
    try cluster.planes[0].lend(key(1), to: [WorkerID(2)], [part(try #require(memory), 0..<1 << 20)])
    memory = nil
    // Others do not get its place meanwhile.
    let next = try #require(cluster.planes[0].lendableMemory(byteCount: 1 << 20))
    fill(next, [UInt8](repeating: 6, count: 1 << 20))
    #expect(try cluster.planes[1].receiveBytes(key(1), from: WorkerID(1), 1 << 20).allSatisfy { $0 == 5 })
    #expect(cluster.planes[1].counters.receivedLentFrames == 1)
  }

  /// An owner of bytes that are lent, to see how long it is kept.
  private final class Owner: Sendable {}

  @Test func whoKeepsWhatIsLentLivesUntilItIsTaken() throws {
    let cluster = try start(3)
    defer { cluster.close() }
    let (sender, workers) = (cluster.planes[0], Array(cluster.workers.dropFirst()))
    let memory = try #require(sender.lendableMemory(byteCount: 1 << 20))
    defer { withExtendedLifetime(memory) {} }
    fill(memory, [UInt8](repeating: 5, count: 1 << 20))
    var owner: Owner? = Owner()
    weak var kept = owner
    try sender.lend(key(1), to: workers, [part(memory, 0..<1 << 20)], keeping: try #require(owner))
    owner = nil
    // It does not change while its owner lives: others' changes are none of it.
    sender.takeBackLent()
    for (plane, isLast) in zip(cluster.planes.dropFirst(), [false, true]) {
      #expect(kept != nil)
      #expect(try plane.receiveBytes(key(1), from: WorkerID(1), 1 << 20).allSatisfy { $0 == 5 })
      #expect(plane.eventually { $0.receivedLentFrames == 1 })
      if isLast { #expect(sender.eventually { _ in kept == nil }) }
    }
    // Nor longer than a generation.
    owner = Owner()
    kept = owner
    try sender.lend(key(2), to: [workers[0]], [part(memory, 0..<1 << 20)], keeping: try #require(owner))
    owner = nil
    try cluster.enter(0, 2)
    #expect(sender.eventually { _ in kept == nil })
  }

  @Test(arguments: [false, true]) func whatChangesWhileItIsReadIsNotUsed(_ byEntering: Bool) throws {
    let cluster = try start()
    defer { cluster.close() }
    let memory = try #require(cluster.planes[0].lendableMemory(byteCount: 1 << 20))
    defer { withExtendedLifetime(memory) {} }
    try cluster.planes[0].lend(key(1), to: [WorkerID(2)], [part(memory, 0..<1 << 20)])
    try cluster.planes[0].lend(key(2), to: [WorkerID(2)], [part(memory, 0..<1 << 20)])
    for step in [1, 2] as [Step] {
      #expect(cluster.planes[1].eventually { _ in cluster.planes[1].hasArrived(key(step), from: WorkerID(1)) })
    }
    #expect(throws: DataPlaneError.self) {
      try cluster.planes[1].withReceived(key(1), from: WorkerID(1), byteCount: 1 << 20) { _, _ in
        if byEntering { try cluster.enter(0, 2) } else { cluster.planes[0].takeBackLent() }
        fill(memory, [UInt8](repeating: 9, count: 1 << 20))
      }
    }
    #expect(throws: DataPlaneError.self) { try cluster.planes[1].receiveBytes(key(2), from: WorkerID(1), 1 << 20) }
  }
}

@Suite(.timeLimit(.minutes(3)), .serialized) struct HostileSegmentTests {
  /// A peer of the generation that says what it likes: worker 2.
  private struct Stranger {
    let peer: RawPeer
    func send(_ purpose: FrameHeader.Purpose, _ part: [UInt8]?, _ change: (inout FrameHeader) -> Void = { _ in }) throws
    {
      var header = FrameHeader(
        purpose: purpose, charged: true, run: RunTag(runA), generation: Generation(1), sender: WorkerID(2), key: key(1),
        payloadChecksum: part.map { $0.withUnsafeBytes(FrameChecksum.of) } ?? 0)
      change(&header)
      var bytes = [UInt8](repeating: 0, count: FrameHeader.sizeBytes)
      bytes.withUnsafeMutableBytes { header.write(into: $0, checksum: FrameChecksum.of) }
      try peer.send([bytes] + (part.map { [$0] } ?? []))
    }
    func offer(_ offer: SegmentOffer) throws {
      var bytes = [UInt8](repeating: 0, count: SegmentOffer.sizeBytes)
      bytes.withUnsafeMutableBytes { offer.write(into: $0) }
      try send(.share, bytes)
    }
    func place(_ index: Int, segment: Int, offset: Int, count: Int, stamp: UInt32 = 0) throws {
      try send(.placed, nil) {
        $0.key = key(1, index)
        $0.chunkBytes = segment
        $0.chunkOffset = offset
        $0.totalBytes = count
        $0.payloadChecksum = stamp
      }
    }
  }

  @Test func whatCannotBeLentIsRefused() throws {
    let (cluster, stranger) = try start()
    defer { cluster.close() }
    let size = 1 << 20
    var descriptor: Int32 = -1
    var address: UnsafeMutableRawPointer?
    try #require(csystem_shared_create(size, &descriptor, &address) == 0)
    defer {
      csystem_shared_unmap(address, size)
      close(descriptor)
    }
    address?.storeBytes(of: 5, as: UInt64.self)
    address?.storeBytes(of: 6, toByteOffset: 8, as: UInt64.self)
    address?.storeBytes(of: 78, toByteOffset: 4_096, as: UInt32.self)
    try stranger.offer(
      SegmentOffer(number: 3, process: process, descriptor: descriptor, segmentBytes: size, tokenHigh: 5, tokenLow: 6))
    func lend(_ index: Int, _ extents: [(Int, Int)], segment: UInt32 = 3, total: Int? = nil, claims: Int? = nil) throws
    {
      let table = ExtentTable(extents.map { ExtentTable.Extent(segment: segment, offset: $0.0, count: $0.1) })
      let place = UnsafeMutableRawBufferPointer(
        start: address.map { $0 + 4_160 }, count: ExtentTable.sizeBytes(extents.count))
      table.write(into: place)
      if let claims { place.storeBytes(of: UInt64(claims), as: UInt64.self) }
      let seen = cluster.planes[0].counters
      try stranger.send(.lent, nil) {
        $0.key = key(1, index)
        $0.chunkBytes = 3
        $0.chunkOffset = 4_160
        $0.totalBytes = total ?? table.totalBytes
        $0.payloadChecksum = 78
      }
      // The table is changed for the next one only when this one was looked at.
      #expect(
        cluster.planes[0].eventually {
          $0.violations > seen.violations || $0.receivedLentFrames > seen.receivedLentFrames
        })
    }
    address?.storeBytes(of: 0x0102_0304, toByteOffset: 8_192, as: UInt32.self)
    try lend(1, [(8_192, 4), (8_192, 4)])
    #expect(
      try cluster.planes[0].receiveBytes(key(1, 1), from: WorkerID(2), 8, timeoutSeconds: 5) == [
        4, 3, 2, 1, 4, 3, 2, 1,
      ])
    #expect(cluster.planes[0].counters.violations == 0)
    try lend(2, [(0, 64)], total: 64)
    try lend(2, [(size - 4, 8)])
    try lend(2, [(size, 4)])
    try lend(2, [(8_193, 4)])
    try lend(2, [(8_192, 3)])
    try lend(2, [(8_192, 64)], segment: 4)
    try lend(2, [(8_192, 64)], total: 68)
    try lend(2, [(8_192, 64)], claims: 0)
    try lend(2, [(8_192, 64)], claims: 65_000)
    try lend(2, [(8_192, 64)], claims: .max)
    #expect(cluster.planes[0].counters.violations == 10)
    #expect(cluster.planes[0].failure == nil)
  }

  private func start() throws -> (Cluster, Stranger) {
    let cluster = try Cluster(2)
    let stranger = Stranger(peer: try RawPeer(cluster.planes[0].endpoint))
    // The I/O thread has entered the generation once something came through.
    try cluster.planes[1].sendBytes(key(7), to: WorkerID(1), [1])
    _ = try cluster.planes[0].receiveBytes(key(7), from: WorkerID(2), 1)
    return (cluster, stranger)
  }

  private var process: Int32 { ProcessInfo.processInfo.processIdentifier }

  @Test func whatIsNotASegmentIsRefused() throws {
    let (cluster, stranger) = try start()
    defer { cluster.close() }
    let size = 1 << 20
    let path = FileManager.default.temporaryDirectory.appending(path: "segment-\(UUID().uuidString)")
    try Data(count: size).write(to: path)
    defer { try? FileManager.default.removeItem(at: path) }
    let file = try FileHandle(forReadingFrom: path)
    let pipe = Pipe()
    var descriptor: Int32 = -1
    var address: UnsafeMutableRawPointer?
    #expect(csystem_shared_create(size, &descriptor, &address) == 0)
    defer {
      csystem_shared_unmap(address, size)
      close(descriptor)
    }
    address?.storeBytes(of: 5, as: UInt64.self)
    address?.storeBytes(of: 6, toByteOffset: 8, as: UInt64.self)
    func offer(
      _ descriptor: Int32, process: Int32? = nil, bytes: Int? = nil, token: UInt64 = 5
    ) throws {
      try stranger.offer(
        SegmentOffer(
          number: 3, process: process ?? self.process, descriptor: descriptor, segmentBytes: bytes ?? size,
          tokenHigh: token, tokenLow: 6))
    }
    try offer(file.fileDescriptor)  // a file that can be cut off
    try offer(pipe.fileHandleForReading.fileDescriptor)
    try offer(9_999)
    try offer(descriptor, process: .max)
    try offer(descriptor, bytes: size * 2)
    try offer(descriptor, bytes: 64)
    try offer(descriptor, bytes: 1 << 39)
    try offer(descriptor, token: 7)
    #expect(cluster.planes[0].eventually { $0.refusedSegments == 8 }, "\(cluster.planes[0].counters)")
    try stranger.place(1, segment: 3, offset: 8_192, count: 64)
    #expect(cluster.planes[0].eventually { $0.violations == 1 })

    // Now a real one, and places outside it.
    try offer(descriptor)
    for (offset, count) in [
      (0, 64), (4_096, 64), (4_160 + 1, 64), (size, 64), (size - 64, 128), (4_160, size), (1 << 59, 64),
      (4_160, 1 << 60),
      (1 << 60, 1 << 60), (4_160, 0),
    ] {
      try stranger.place(2, segment: 3, offset: offset, count: count)
    }
    try stranger.place(2, segment: 4, offset: 4_160, count: 64)
    #expect(cluster.planes[0].eventually { $0.violations == 12 }, "\(cluster.planes[0].counters)")
    // Inside, with a stamp that is not there; then with the one that is.
    try stranger.place(5, segment: 3, offset: 4_160, count: 64, stamp: 77)
    #expect(throws: DataPlaneError.self) {
      try cluster.planes[0].receiveBytes(key(1, 5), from: WorkerID(2), 64, timeoutSeconds: 5)
    }
    address?.storeBytes(of: 78, toByteOffset: 4_096, as: UInt32.self)
    address?.storeBytes(of: 0x0102_0304, toByteOffset: 4_160, as: UInt32.self)
    try stranger.place(6, segment: 3, offset: 4_160, count: 4, stamp: 78)
    #expect(try cluster.planes[0].receiveBytes(key(1, 6), from: WorkerID(2), 4, timeoutSeconds: 5) == [4, 3, 2, 1])
  }

  @Test func randomOffersAndPlacesDisturbNobody() throws {
    let (cluster, stranger) = try start()
    defer { cluster.close() }
    var noise = Noise(state: 31)
    for round in 0..<2_000 {
      switch round % 5 {
      case 0: try stranger.send(.share, noise.bytes(SegmentOffer.sizeBytes))
      case 1: try stranger.send(.share, noise.bytes(round % 100))
      case 2:
        try stranger.offer(
          SegmentOffer(
            number: UInt32(noise.next() % 4), process: process, descriptor: Int32(noise.next() % 40),
            segmentBytes: Int(noise.next() % (1 << 30)), tokenHigh: noise.next(), tokenLow: noise.next()))
      case 3:
        try stranger.place(
          round, segment: Int(noise.next() % 5), offset: Int(noise.next() % (1 << 40)),
          count: Int(noise.next() % (1 << 30)))
      default: try stranger.send(.open, noise.bytes(round % 40))
      }
      if round % 400 == 0 {
        let frame = noise.bytes(200_000)
        try cluster.planes[1].sendBytes(key(3, round), to: WorkerID(1), frame)
        #expect(try cluster.planes[0].receiveBytes(key(3, round), from: WorkerID(2), frame.count) == frame)
      }
    }
    // All were seen when something that is sent behind them was.
    try stranger.place(1, segment: 1_000, offset: 0, count: 1)
    let seen = cluster.planes[0].counters.violations
    #expect(cluster.planes[0].eventually { $0.violations > min(seen, 399) })
    #expect(cluster.planes[0].failure == nil)
  }
}
