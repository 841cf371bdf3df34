import ClusterModel
import Foundation
import Testing
import Transport
import Wire

let runA = RunID("00112233445566778899aabbccddeeff")

extension DataPlane {
  func sendBytes(_ key: FrameKey, to worker: WorkerID, _ bytes: [UInt8]) throws {
    var failure: DataPlaneError?
    bytes.withUnsafeBytes { buffer in
      do throws(DataPlaneError) { try send(key, to: worker, buffer) } catch { failure = error }
    }
    if let failure { throw failure }
  }
  func receiveBytes(_ key: FrameKey, from worker: WorkerID, _ count: Int, timeoutSeconds: Double = 20) throws -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0xA5, count: count)
    var failure: DataPlaneError?
    bytes.withUnsafeMutableBytes { buffer in
      do throws(DataPlaneError) {
        try receive(key, from: worker, element: .bytes, into: buffer, timeoutSeconds: timeoutSeconds)
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return bytes
  }
  /// Waits until a counter says so.
  func eventually(_ condition: (DataPlaneCounters) -> Bool) -> Bool {
    for _ in 0..<500 {
      if condition(counters) { return true }
      Thread.sleep(forTimeInterval: 0.01)
    }
    return condition(counters)
  }
}

func key(_ step: Step, _ microbatch: Int = 0, kind: FrameKey.Kind = .activation) -> FrameKey {
  FrameKey(kind: kind, step: step, microbatch: UInt32(microbatch))
}

/// Some workers that have entered one generation.
struct Cluster {
  let planes: [DataPlane]
  let workers: [WorkerID]
  var peers: [WorkerID: String] {
    Dictionary(uniqueKeysWithValues: zip(workers, planes.map(\.endpoint)))
  }
  init(_ count: Int, limits: DataPlaneLimits = DataPlaneLimits(), enter generation: UInt64? = 1) throws {
    planes = try (0..<count).map { _ in try DataPlane(bind: "tcp://127.0.0.1:*", limits: limits) }
    workers = (0..<count).map { WorkerID(UInt32($0 + 1)) }
    if let generation { for index in 0..<count { try enter(index, generation) } }
  }
  /// In a `defer` of every test: a plane that nobody uses any more closes and sends nothing, and the optimizer
  /// may end a variable's life at its last use.
  func close() { for plane in planes { plane.close() } }
  func enter(_ index: Int, _ generation: UInt64) throws {
    try planes[index].enter(run: runA, generation: Generation(generation), me: workers[index], peers: peers)
  }
}

/// Threads whose errors come back when they are joined.
final class Threads {
  // Safe because the errors are reached under the lock only.
  private final class Errors: @unchecked Sendable {
    let lock = NSLock()
    var list: [any Error] = []
  }
  struct Hung: Error {}
  private let group = DispatchGroup()
  private let errors = Errors()
  func start(_ body: @escaping @Sendable () throws -> Void) {
    group.enter()
    let (group, errors) = (group, errors)
    Thread {
      do { try body() } catch { errors.lock.withLock { errors.list.append(error) } }
      group.leave()
    }.start()
  }
  func join(seconds: Double = 60) throws {
    if group.wait(timeout: .now() + seconds) == .timedOut { throw Hung() }
    if let error = errors.lock.withLock({ errors.list.first }) { throw error }
  }
}

@Suite(.timeLimit(.minutes(3)), .serialized) struct DataPlaneTests {
  @Test func bigFramesGoBothWaysAtOnce() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let size = 40 << 20 | 12_345
    let threads = Threads()
    for me in 0..<2 {
      let (plane, peer) = (cluster.planes[me], cluster.workers[1 - me])
      threads.start {
        var noise = Noise(state: UInt64(me))
        let mine = noise.bytes(size)
        var other = Noise(state: UInt64(1 - me))
        let theirs = other.bytes(size)
        try plane.sendBytes(key(1), to: peer, mine)
        #expect(try plane.receiveBytes(key(1), from: peer, size) == theirs)
      }
    }
    try threads.join()
    #expect(cluster.planes[0].eventually { $0.queuedBytes == 0 })
    #expect(cluster.planes[0].counters.sentBytes == UInt64(size))
  }

  @Test(arguments: [0, 64 << 20]) func everySizeArrives(sharedBytes: Int) throws {
    let limits = DataPlaneLimits(chunkBytes: 1_000, windowBytes: 5_000, sharedBytes: sharedBytes)
    let cluster = try Cluster(2, limits: limits)
    defer { cluster.close() }
    var noise = Noise(state: 1)
    let frames = [0, 1, 7, 999, 1_000, 1_001, 2_000, 4_999, 20_000].map { noise.bytes($0) }
    for (index, frame) in frames.enumerated() {
      try cluster.planes[0].sendBytes(key(1, index), to: cluster.workers[1], frame)
    }
    for (index, frame) in frames.enumerated().reversed() {
      #expect(try cluster.planes[1].receiveBytes(key(1, index), from: cluster.workers[0], frame.count) == frame)
    }
  }

  @Test func manyFramesInAnotherOrderWithManyReceivers() throws {
    let cluster = try Cluster(3, limits: DataPlaneLimits(windowBytes: 2 << 20))
    defer { cluster.close() }
    let count = 300
    let threads = Threads()
    for me in 0..<3 {
      let plane = cluster.planes[me]
      let others = cluster.workers.indices.filter { $0 != me }
      let workers = cluster.workers
      threads.start {
        for index in 0..<count {
          for other in others {
            var noise = Noise(state: UInt64(me * 1_000 + index))
            try plane.sendBytes(key(5, index), to: workers[other], noise.bytes(50_000))
          }
        }
      }
      for other in others {
        threads.start {
          for index in 0..<count {
            // Last first, in strides: far from the order in which they are sent.
            let wanted = (count - 1 - index) * 7 % count
            var noise = Noise(state: UInt64(other * 1_000 + wanted))
            let bytes = try plane.receiveBytes(key(5, wanted), from: workers[other], 50_000)
            #expect(bytes == noise.bytes(50_000))
          }
        }
      }
    }
    try threads.join(seconds: 120)
  }

  @Test func creditsBoundWhatNobodyAskedFor() throws {
    let window = 3 << 20
    let cluster = try Cluster(2, limits: DataPlaneLimits(windowBytes: window, sharedBytes: 0))
    defer { cluster.close() }
    let (sender, receiver) = (cluster.planes[0], cluster.planes[1])
    let frame = [UInt8](repeating: 7, count: 1 << 20)
    for index in 0..<20 { try sender.sendBytes(key(1, index), to: cluster.workers[1], frame) }
    #expect(receiver.eventually { $0.receivedBytes >= 2 << 20 })
    Thread.sleep(forTimeInterval: 0.3)
    #expect(receiver.counters.heldBytesPeak <= window)
    #expect(receiver.counters.receivedBytes <= UInt64(window))
    #expect(sender.counters.queuedBytes >= 16 << 20)
    // The last one is behind all others, and comes because somebody waits for it.
    for index in (0..<20).reversed() {
      #expect(try receiver.receiveBytes(key(1, index), from: cluster.workers[0], 1 << 20) == frame)
    }
    #expect(receiver.counters.heldBytesPeak <= window)
    #expect(receiver.counters.violations == 0)
    #expect(sender.eventually { $0.queuedBytes == 0 })
  }

  @Test func theSendQueueIsBounded() throws {
    let cluster = try Cluster(2, limits: DataPlaneLimits(windowBytes: 2 << 20, sendQueueBytes: 8 << 20), enter: nil)
    defer { cluster.close() }
    try cluster.enter(0, 1)
    let frame = [UInt8](repeating: 7, count: 3 << 20)
    try cluster.planes[0].sendBytes(key(1, 0), to: cluster.workers[1], frame)
    try cluster.planes[0].sendBytes(key(1, 1), to: cluster.workers[1], frame)
    #expect(throws: DataPlaneError.sendQueueFull(queuedBytes: 6 << 20, limitBytes: 8 << 20)) {
      try cluster.planes[0].sendBytes(key(1, 2), to: cluster.workers[1], frame)
    }
  }

  @Test func interruptEndsEveryWait() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let threads = Threads()
    let (plane, peer) = (cluster.planes[0], cluster.workers[1])
    for index in 0..<4 {
      threads.start {
        #expect(throws: DataPlaneError.interrupted(reason: "worker 2 is gone")) {
          try plane.receiveBytes(key(1, index), from: peer, 10, timeoutSeconds: 60)
        }
      }
    }
    Thread.sleep(forTimeInterval: 0.1)
    plane.interrupt(reason: "worker 2 is gone")
    try threads.join(seconds: 20)
    #expect(throws: DataPlaneError.interrupted(reason: "worker 2 is gone")) {
      try plane.sendBytes(key(1), to: peer, [1])
    }
    // A new generation begins afresh.
    try cluster.enter(0, 2)
    try cluster.enter(1, 2)
    try cluster.planes[1].sendBytes(key(1), to: cluster.workers[0], [4, 2])
    #expect(try plane.receiveBytes(key(1), from: peer, 2) == [4, 2])
  }

  @Test func aTimeoutSaysWhatWasAwaitedFromWhom() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let expected = DataPlaneError.timedOut(
      key: key(9, 3), from: WorkerID(2), seconds: 0.2, receivedBytes: 0, expectedBytes: 10)
    #expect(throws: expected) {
      try cluster.planes[0].receiveBytes(key(9, 3), from: WorkerID(2), 10, timeoutSeconds: 0.2)
    }
    #expect("\(expected)".contains("activation step 9 microbatch 3"))
    #expect("\(expected)".contains("worker 2"))
    // What comes late is still taken by who asks again.
    try cluster.planes[1].sendBytes(key(9, 3), to: WorkerID(1), [UInt8](repeating: 1, count: 10))
    #expect(try cluster.planes[0].receiveBytes(key(9, 3), from: WorkerID(2), 10).count == 10)
  }

  @Test func sizesElementsAndStrangersAreErrors() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let (a, b) = (cluster.planes[0], cluster.planes[1])
    try a.sendBytes(key(1), to: WorkerID(2), [1, 2, 3])
    #expect(
      throws: DataPlaneError.sizeMismatch(key: key(1), from: WorkerID(1), expectedBytes: 4, sentBytes: 3)
    ) { try b.receiveBytes(key(1), from: WorkerID(1), 4) }
    try [UInt8](repeating: 0, count: 4).withUnsafeBytes {
      try a.send(key(2), to: WorkerID(2), element: .float32, $0)
    }
    #expect(
      throws: DataPlaneError.elementMismatch(key: key(2), from: WorkerID(1), expected: .bytes, sent: .float32)
    ) { try b.receiveBytes(key(2), from: WorkerID(1), 4) }
    #expect(throws: DataPlaneError.unknownPeer(WorkerID(9), Generation(1))) {
      try a.sendBytes(key(1), to: WorkerID(9), [1])
    }
    let fresh = try DataPlane(bind: "tcp://127.0.0.1:*")
    #expect(throws: DataPlaneError.noGeneration) { try fresh.sendBytes(key(1), to: WorkerID(2), [1]) }
    fresh.close()
    #expect(throws: DataPlaneError.closed) { try fresh.sendBytes(key(1), to: WorkerID(2), [1]) }
    #expect(throws: DataPlaneError.self) {
      try a.enter(run: runA, generation: Generation(2), me: WorkerID(1), peers: [WorkerID(2): "tcp://10.0.0.1:5"])
    }
  }

  @Test func closingEndsWaits() throws {
    let cluster = try Cluster(2)
    defer { cluster.close() }
    let threads = Threads()
    let plane = cluster.planes[0]
    threads.start {
      #expect(throws: DataPlaneError.closed) { try plane.receiveBytes(key(1), from: WorkerID(2), 10) }
    }
    Thread.sleep(forTimeInterval: 0.1)
    plane.close()
    try threads.join(seconds: 20)
  }
}

@Suite(.timeLimit(.minutes(2)), .serialized) struct BrokenConnectionTests {
  @Test(arguments: [0, 256 << 20]) func aConnectionThatBreaksLosesNothing(sharedBytes: Int) throws {
    let limits = DataPlaneLimits(
      chunkBytes: 100_000, windowBytes: 1 << 20, sharedBytes: sharedBytes, retrySeconds: 0.2)
    let sender = try DataPlane(bind: "tcp://127.0.0.1:*", limits: limits)
    let receiver = try DataPlane(bind: "tcp://127.0.0.1:*", limits: limits)
    let proxy = try BreakingProxy(to: receiver.endpoint)
    defer { proxy.close() }
    try sender.enter(
      run: runA, generation: Generation(1), me: WorkerID(1), peers: [WorkerID(2): proxy.endpoint])
    try receiver.enter(
      run: runA, generation: Generation(1), me: WorkerID(2), peers: [WorkerID(1): sender.endpoint])
    var noise = Noise(state: 8)
    let frame = noise.bytes(10_000_000)
    let done = Flag()
    let breaking = Thread {
      while !done.isSet {
        Thread.sleep(forTimeInterval: 0.05)
        proxy.cut()
        Thread.sleep(forTimeInterval: 0.5)
      }
    }
    breaking.start()
    defer { done.set() }
    for index in 0..<12 {
      try sender.sendBytes(key(1, index), to: WorkerID(2), frame)
      #expect(try receiver.receiveBytes(key(1, index), from: WorkerID(1), frame.count, timeoutSeconds: 30) == frame)
      Thread.sleep(forTimeInterval: 0.07)
    }
    #expect(sender.failure == nil && receiver.failure == nil)
    sender.close()
    receiver.close()
  }
}
