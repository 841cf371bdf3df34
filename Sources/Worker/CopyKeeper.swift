import ClusterModel
import Collectives
import Compute
import Foundation
import TransfusionModel
import Wire

/// Sends copies of this worker's state to its buddy and takes those of its ward, on a thread of its own while
/// training goes on.
final class CopyKeeper: Sendable {
  private struct Job: Sendable {
    var snapshot: StateSnapshot
    /// What it took of a processor to make.
    var snapshotSeconds: Double
    var me: WorkerID
    var generation: Generation
    var plan: Plan
    var needs: [StateHolding]
    var parameters: [ParameterSpecification]
    var link: any Link
  }
  let copies = StateCopies()
  private let queue = BlockingQueue<Job>()
  private let finished = DispatchSemaphore(value: 0)

  /// - Parameter report: called on the keeper's thread: the ward's copy of this state is complete.
  init(report: @escaping @Sendable (CopyLine, Generation) -> Void) {
    let (queue, copies, finished) = (queue, copies, finished)
    BackgroundThread.start("copies") {
      let buffers = SnapshotBuffers()
      while let job = queue.pop() {
        let before = CopyLine.threadSeconds
        // A generation that ends in between ends the copying, too: the copies before stay.
        if let ward = try? Self.exchange(job, buffers) {
          copies.keepWard(ward)
          let seconds = job.snapshotSeconds + CopyLine.threadSeconds - before
          report(CopyLine(step: ward.step, processorSeconds: seconds), job.generation)
        }
      }
      finished.signal()
    }
  }

  /// Keeps a copy of what this worker owns, and exchanges it for its ward's.
  /// - Parameter snapshotSeconds: what it took of a processor to make.
  func begin(
    _ snapshot: StateSnapshot, snapshotSeconds: Double, me: WorkerID, generation: Generation, plan: Plan,
    model: ModelConfiguration, link: any Link
  ) {
    copies.keepOwn(snapshot)
    queue.push(
      Job(
        snapshot: snapshot, snapshotSeconds: snapshotSeconds, me: me, generation: generation, plan: plan,
        needs: StateNeeds.needs(of: plan, model, withBackups: false), parameters: model.parameters, link: link))
  }

  func stop() {
    queue.close(discarding: true)
    finished.wait()
  }

  private static func exchange(_ job: Job, _ buffers: SnapshotBuffers) throws -> StateSnapshot? {
    guard let buddy = job.plan.buddy(of: job.me), let ward = job.plan.ward(of: job.me) else { return nil }
    let step = job.snapshot.step
    func key(_ key: StateSnapshot.Key) -> FrameKey {
      FrameKey(kind: .stateCopy, step: step, microbatch: UInt32(key.tensor), part: key.part.rawValue)
    }
    for entry in job.snapshot.entries {
      try job.snapshot.lend(entry, as: key(entry.key), to: buddy, job.link)
    }
    // What the ward owns: its moments say so.
    let tensors = job.needs.first { $0.worker == ward }?.moments.flatMap { $0 } ?? []
    var layout = StateSnapshot.Layout()
    for tensor in tensors {
      for part in StatePart.allCases { layout.append(part, of: job.parameters[tensor], tensor: tensor) }
    }
    let buffer = buffers.take(byteCount: layout.byteCount)
    for entry in layout.entries {
      try job.link.receive(
        key(entry.key), from: ward, into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[entry.bytes]))
    }
    return StateSnapshot(step: step, entries: layout.entries, buffer: buffer)
  }
}
