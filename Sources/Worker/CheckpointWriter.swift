import Checkpoints
import ClusterModel
import Foundation
import Tracing
import Wire

/// Writes snapshots on a thread of its own while training goes on.
final class CheckpointWriter: Sendable {
  private struct Job: Sendable {
    var snapshot: StateSnapshot
    var store: CheckpointStore
    var file: String
    var generation: Generation
  }
  private struct Target: Sendable {
    var store: CheckpointStore
    var file: String
    var generation: Generation
  }
  private let queue = BlockingQueue<Job>()
  private let lock = NSLock()
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var target: Target?
  private let finished = DispatchSemaphore(value: 0)

  /// - Parameter report: called on the writer's thread with what the coordinator must hear.
  init(
    trace: TraceRecorder, report: @escaping @Sendable (ControlMessage, Generation) -> Void
  ) {
    let queue = queue
    let finished = finished
    BackgroundThread.start("checkpoint") {
      // Its snapshot's memory is free before the report: the next one may be asked for as soon as the coordinator knows.
      func writeNext() -> (ControlMessage, Generation)? {
        guard let job = queue.pop() else { return nil }
        return (trace.measure(.checkpointWrite, step: job.snapshot.step) { Self.write(job) }, job.generation)
      }
      while let (message, generation) = writeNext() { report(message, generation) }
      finished.signal()
    }
  }

  /// Where this generation's parts go.
  func begin(store: CheckpointStore, file: String, generation: Generation) {
    lock.withLock { target = Target(store: store, file: file, generation: generation) }
  }

  func write(_ snapshot: StateSnapshot) {
    guard let target = lock.withLock({ target }) else { preconditionFailure("a snapshot before a place") }
    queue.push(Job(snapshot: snapshot, store: target.store, file: target.file, generation: target.generation))
  }

  /// Finishes what is queued.
  func stop() {
    queue.close()
    finished.wait()
  }

  private static func write(_ job: Job) -> ControlMessage {
    do {
      let part = try job.store.writePart(
        step: job.snapshot.step, file: job.file,
        tensors: job.snapshot.entries.map { entry in
          TensorSource(
            path: entry.path, shape: entry.shape, bytes: job.snapshot.bytes(of: entry))
        })
      // The sources are addresses: the memory stays until here.
      withExtendedLifetime(job.snapshot.buffer) {}
      return .checkpointWritten(
        CheckpointPart(
          step: job.snapshot.step, file: part.file, sizeBytes: UInt64(part.sizeBytes), sha256: part.sha256,
          tensors: part.tensors.map { .init(path: $0.path, shape: $0.shape, sha256: $0.sha256) }))
    } catch {
      return .checkpointFailed(step: job.snapshot.step, reason: "\(error)")
    }
  }
}
