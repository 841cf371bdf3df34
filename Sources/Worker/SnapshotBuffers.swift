import Foundation

/// Host memory that snapshots of the state are copied to: made once, then used again by one copy or checkpoint after
/// another, so that copying meets no page that the system has yet to give and to clear.
final class SnapshotBuffers: Sendable {
  /// Buffers that wait for their next use: of one checkpoint, and of one copy between two that are kept.
  private static let kept = 2
  private let lock = NSLock()
  // Safe because every access is under `lock`, and each stretch of memory has one owner.
  nonisolated(unsafe) private var free: [UnsafeMutableRawBufferPointer] = []

  /// A buffer of at least so many bytes, its contents undefined. Its memory comes back with its last reference.
  func take(byteCount: Int) -> SnapshotBuffer {
    let (reused, tooSmall) = lock.withLock { () -> (UnsafeMutableRawBufferPointer?, [UnsafeMutableRawBufferPointer]) in
      // Those of an earlier, smaller place would only fill the memory.
      let tooSmall = free.filter { $0.count < byteCount }
      free.removeAll { $0.count < byteCount }
      guard let best = free.indices.min(by: { free[$0].count < free[$1].count }) else { return (nil, tooSmall) }
      return (free.remove(at: best), tooSmall)
    }
    for memory in tooSmall { memory.deallocate() }
    return SnapshotBuffer(reused ?? Self.allocate(byteCount), of: self)
  }

  private static func allocate(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
    let alignment = 2 << 20
    let rounded = (max(byteCount, 1) + alignment - 1) / alignment * alignment
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: rounded, alignment: alignment)
    #if canImport(Glibc)
      // The first snapshot then meets a page fault every 2 MiB instead of every 4 KiB.
      _ = madvise(memory.baseAddress, rounded, MADV_HUGEPAGE)
    #endif
    return memory
  }

  fileprivate func takeBack(_ memory: UnsafeMutableRawBufferPointer) {
    let isKept = lock.withLock {
      guard free.count < Self.kept else { return false }
      free.append(memory)
      return true
    }
    if !isKept { memory.deallocate() }
  }

  deinit { for memory in free { memory.deallocate() } }
}

/// A stretch of host memory that goes back to where it was taken with its last reference.
///
// Safe because it is written by who took it, and only read once it has been handed on.
final class SnapshotBuffer: @unchecked Sendable {
  let bytes: UnsafeMutableRawBufferPointer
  private let home: SnapshotBuffers

  fileprivate init(_ bytes: UnsafeMutableRawBufferPointer, of home: SnapshotBuffers) {
    self.bytes = bytes
    self.home = home
  }
  deinit { home.takeBack(bytes) }
}
