import ClusterModel
import Collectives
import Foundation
import TransfusionModel
import Transport

/// Copies of some tensors of a state in host memory: what a checkpoint writes, a buddy keeps and a new generation is
/// given, while training goes on or the device's memory is used for something else.
struct StateSnapshot: Sendable {
  struct Key: Hashable, Sendable {
    /// Place in the model's canonical order.
    var tensor: Int
    var part: StatePart
  }
  struct Entry: Sendable {
    var key: Key
    /// The tensor's name in a checkpoint's files.
    var path: String
    var shape: [Int]
    /// Where its float32 values lie in the buffer.
    var bytes: Range<Int>
  }
  /// Entries one after the other in a buffer that is made once all are known.
  struct Layout {
    private(set) var entries: [Entry] = []
    private(set) var byteCount = 0

    mutating func append(_ part: StatePart, of specification: ParameterSpecification, tensor: Int) {
      let size = specification.count * MemoryLayout<Float>.size
      entries.append(
        Entry(
          key: Key(tensor: tensor, part: part), path: StageExecutor.path(specification.name, part),
          shape: specification.shape, bytes: byteCount..<byteCount + size))
      byteCount += size
    }
  }
  var step: Step
  /// Nothing twice.
  var entries: [Entry]
  var buffer: SnapshotBuffer

  /// The values of an entry; valid while the snapshot lives.
  func bytes(of entry: Entry) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer.bytes)[entry.bytes])
  }

  /// Sends an entry without waiting for its receiver, who reads it here if it is on this host.
  func lend(_ entry: Entry, as key: FrameKey, to worker: WorkerID, _ link: any Link) throws {
    while true {
      do {
        return try link.lend(key, to: [worker], [bytes(of: entry)], keeping: buffer)
      } catch DataPlaneError.sendQueueFull {
        usleep(1_000)
      }
    }
  }

  /// What of the state it holds.
  var tensors: (parameters: [Range<Int>], moments: [Range<Int>]) {
    func ranges(_ part: StatePart) -> [Range<Int>] {
      StateTransfer.union(entries.filter { $0.key.part == part }.map { $0.key.tensor..<$0.key.tensor + 1 })
    }
    return (ranges(.parameters), ranges(.secondMoment))
  }
}

/// Copies of states that this worker keeps in memory: of what it owns, and of what its ward owns. A state is the same
/// whoever made it and in whatever generation, so none of them is ever wrong; old ones only cost memory.
final class StateCopies: Sendable {
  /// Two, because the newer one may be of use only when all workers have it. `CopyProgress` counts on it.
  private static let kept = 2
  private let lock = NSLock()
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var own: [StateSnapshot] = []
  // Safe for the same reason.
  nonisolated(unsafe) private var wards: [StateSnapshot] = []

  func keepOwn(_ snapshot: StateSnapshot) { lock.withLock { Self.keep(snapshot, &own) } }
  func keepWard(_ snapshot: StateSnapshot) { lock.withLock { Self.keep(snapshot, &wards) } }

  private static func keep(_ snapshot: StateSnapshot, _ copies: inout [StateSnapshot]) {
    copies.removeAll { $0.step == snapshot.step }
    copies.append(snapshot)
    copies.sort { $0.step > $1.step }
    if copies.count > kept { copies.removeLast(copies.count - kept) }
  }

  var all: [StateSnapshot] { lock.withLock { own + wards } }
}
