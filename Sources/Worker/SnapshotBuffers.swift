import Foundation

/// Host memory that snapshots of the state are copied to: made once, then used again by one checkpoint after
/// another, so that copying meets no page that the system has yet to give.
///
/// Taken on the compute thread, given back by the writer.
final class SnapshotBuffers: Sendable {
  private let lock = NSLock()
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var free: [SnapshotBuffer] = []

  /// A buffer of at least so many bytes: one that was used before if it is large enough. A worker writes one
  /// checkpoint at a time, so there is one buffer.
  func take(byteCount: Int) -> SnapshotBuffer {
    let reused = lock.withLock { () -> SnapshotBuffer? in
      let index = free.firstIndex { $0.bytes.count >= byteCount }
      // Those of an earlier, smaller place would only fill the memory.
      defer { free = [] }
      return index.map { free[$0] }
    }
    return reused ?? SnapshotBuffer(byteCount: byteCount)
  }

  func give(back buffer: SnapshotBuffer) { lock.withLock { free.append(buffer) } }
}

/// A stretch of host memory that goes back to the system with its last reference.
///
// Safe because it has one user at a time: the compute thread until the snapshot is handed over, then the writer.
final class SnapshotBuffer: @unchecked Sendable {
  let bytes: UnsafeMutableRawBufferPointer

  init(byteCount: Int) {
    let alignment = 2 << 20
    let rounded = (max(byteCount, 1) + alignment - 1) / alignment * alignment
    bytes = .allocate(byteCount: rounded, alignment: alignment)
    #if canImport(Glibc)
      // The first snapshot then meets a page fault every 2 MiB instead of every 4 KiB.
      _ = madvise(bytes.baseAddress, rounded, MADV_HUGEPAGE)
    #endif
  }
  deinit { bytes.deallocate() }
}
