import ClusterModel
import Collectives
import Foundation

/// Frames between threads of one process.
///
// Safe because the frames are reached under the condition's lock only.
final class MemoryNetwork: @unchecked Sendable {
  struct Slot: Hashable {
    let from: WorkerID
    let to: WorkerID
    let key: FrameKey
  }
  enum Failure: Error {
    case timedOut(FrameKey)
    case sentTwice(FrameKey)
    case wrongSize(FrameKey, Int, Int)
  }
  private let condition = NSCondition()
  private var frames: [Slot: [UInt8]] = [:]

  var leftovers: Int { condition.withLock { frames.count } }
  func has(_ slot: Slot) -> Bool { condition.withLock { frames[slot] != nil } }

  func put(_ slot: Slot, _ bytes: UnsafeRawBufferPointer) throws {
    condition.lock()
    defer { condition.unlock() }
    if frames[slot] != nil { throw Failure.sentTwice(slot.key) }
    frames[slot] = [UInt8](bytes)
    condition.broadcast()
  }
  func take(_ slot: Slot, into bytes: UnsafeMutableRawBufferPointer) throws {
    condition.lock()
    defer { condition.unlock() }
    let deadline = Date(timeIntervalSinceNow: 20)
    while frames[slot] == nil {
      if !condition.wait(until: deadline) { throw Failure.timedOut(slot.key) }
    }
    guard let frame = frames.removeValue(forKey: slot) else { return }
    if frame.count != bytes.count { throw Failure.wrongSize(slot.key, frame.count, bytes.count) }
    bytes.copyBytes(from: frame)
  }
}

struct MemoryLink: Link {
  let network: MemoryNetwork
  let me: WorkerID
  func send(_ key: FrameKey, to worker: WorkerID, _ bytes: UnsafeRawBufferPointer) throws {
    try network.put(.init(from: me, to: worker, key: key), bytes)
  }
  func receive(_ key: FrameKey, from worker: WorkerID, into bytes: UnsafeMutableRawBufferPointer) throws {
    try network.take(.init(from: worker, to: me, key: key), into: bytes)
  }
  func hasArrived(_ key: FrameKey, from worker: WorkerID) -> Bool {
    network.has(.init(from: worker, to: me, key: key))
  }
}

// Safe because each thread writes its own element under the lock.
private final class Results<Value>: @unchecked Sendable {
  private let lock = NSLock()
  private var values: [Int: Result<Value, any Error>] = [:]
  subscript(index: Int) -> Result<Value, any Error>? {
    get { lock.withLock { values[index] } }
    set { lock.withLock { values[index] = newValue } }
  }
}

struct ThreadsHung: Error {}

/// Runs one body a replica, each on a thread of its own, and gives their results in order.
func onThreads<Value: Sendable>(
  _ count: Int, _ body: @escaping @Sendable (Int) throws -> Value
) throws -> [Value] {
  let results = Results<Value>()
  let group = DispatchGroup()
  for index in 0..<count {
    group.enter()
    Thread {
      results[index] = Result { try body(index) }
      group.leave()
    }.start()
  }
  if group.wait(timeout: .now() + 50) == .timedOut { throw ThreadsHung() }
  return try (0..<count).map { index in
    guard let result = results[index] else { throw ThreadsHung() }
    return try result.get()
  }
}
