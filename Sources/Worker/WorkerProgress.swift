import ClusterModel
import Foundation
import Wire

/// What the compute thread is doing, for the control thread's heartbeats.
final class WorkerProgress: Sendable {
  private struct State {
    var count: UInt64 = 0
    var step: Step = 0
    var phase = "idle"
    var microbatchesPerSecond = 0.0
    var memoryBytes: UInt64 = 0
    var generation = Generation(0)
    var newest = Generation(0)
  }
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var state = State()
  private let lock = NSLock()
  private let bytesOfPeers: @Sendable () -> Int

  /// - Parameter bytesOfPeers: of memory that belongs to other workers of this host and is mapped here.
  init(bytesOfPeers: @escaping @Sendable () -> Int) { self.bytesOfPeers = bytesOfPeers }

  /// What this process takes of its host's memory.
  var memoryBytes: UInt64 { UInt64(max(0, ProcessMemory.residentBytes - bytesOfPeers())) }

  func enter(_ phase: String, step: Step) {
    lock.withLock {
      state.count += 1
      state.phase = phase
      state.step = step
    }
  }
  /// The compute thread begins something for a generation.
  func begin(_ generation: Generation) { lock.withLock { state.generation = generation } }
  var generation: Generation { lock.withLock { state.generation } }
  /// Another generation has begun: the compute thread ends what it does for an older one.
  func overtake(by generation: Generation) { lock.withLock { state.newest = max(state.newest, generation) } }
  /// - Throws: ``WorkerError/overtaken(by:)`` when what the compute thread does is of no use any more.
  func checkGeneration() throws {
    let newest = lock.withLock { state.newest > state.generation ? state.newest : nil }
    if let newest { throw WorkerError.overtaken(by: newest) }
  }
  func report(microbatchesPerSecond: Double, memoryBytes: UInt64) {
    lock.withLock {
      state.microbatchesPerSecond = microbatchesPerSecond
      state.memoryBytes = memoryBytes
    }
  }
  var heartbeat: Heartbeat {
    lock.withLock {
      Heartbeat(
        progress: state.count, step: state.step, phase: state.phase,
        microbatchesPerSecond: state.microbatchesPerSecond, memoryBytes: state.memoryBytes)
    }
  }
}
