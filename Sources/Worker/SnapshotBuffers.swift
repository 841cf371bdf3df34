import Foundation

/// Host memory that snapshots of one kind are copied to: made once, then used again by one snapshot after another, so
/// that copying meets no page that the system has yet to give and to clear.
///
/// In one place all snapshots of a kind have one size. One stretch waits for its next use; those of another size, of an
/// earlier place, go back to the system.
final class SnapshotBuffers: Sendable {
  private let lock = NSLock()
  // Safe because every access is under `lock`, and each stretch of memory has one owner.
  nonisolated(unsafe) private var free: UnsafeMutableRawBufferPointer?

  /// A buffer of at least so many bytes, its contents undefined. Its memory comes back with its last reference.
  func take(byteCount: Int) -> SnapshotBuffer {
    let waiting = lock.withLock {
      defer { free = nil }
      return free
    }
    if let waiting, waiting.count == Self.rounded(byteCount) { return SnapshotBuffer(waiting, of: self) }
    waiting?.deallocate()
    return SnapshotBuffer(Self.allocate(byteCount), of: self)
  }

  private static let hugePageBytes = 2 << 20

  private static func rounded(_ byteCount: Int) -> Int {
    (max(byteCount, 1) + hugePageBytes - 1) / hugePageBytes * hugePageBytes
  }

  private static func allocate(_ byteCount: Int) -> UnsafeMutableRawBufferPointer {
    let rounded = rounded(byteCount)
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: rounded, alignment: hugePageBytes)
    #if canImport(Glibc)
      // The first snapshot then meets a page fault every 2 MiB instead of every 4 KiB.
      _ = madvise(memory.baseAddress, rounded, MADV_HUGEPAGE)
    #endif
    return memory
  }

  fileprivate func takeBack(_ memory: UnsafeMutableRawBufferPointer) {
    let older = lock.withLock {
      defer { free = memory }
      return free
    }
    older?.deallocate()
  }

  deinit { free?.deallocate() }
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
