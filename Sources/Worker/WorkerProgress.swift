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
  }
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var state = State()
  private let lock = NSLock()

  func enter(_ phase: String, step: Step) {
    lock.withLock {
      state.count += 1
      state.phase = phase
      state.step = step
    }
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
