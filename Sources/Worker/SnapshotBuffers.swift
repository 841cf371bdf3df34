import Compute
import Foundation

/// Host memory that snapshots of one kind are copied to: made once, then used again by one snapshot after another, so
/// that copying meets no page that the system has yet to give and to clear.
///
/// In one place all snapshots of a kind have one size. One stretch waits for its next use; those of another size, of an
/// earlier place, go back to the system.
final class SnapshotBuffers: Sendable {
  private let lock = NSLock()
  // Safe because every access is under `lock`, and each stretch of memory has one owner.
  nonisolated(unsafe) private var free: Stretch?
  // Safe for the same reason.
  nonisolated(unsafe) private var used = 0
  // Safe because who shares memory serves any thread.
  nonisolated(unsafe) private let shared: (any SharedMemory)?

  /// Buffers in use that are shared, at most: two that are kept, one that is being made, and one that a slow buddy has not
  /// taken. More would wait for it without bound; others are copied to be sent, which has one.
  private static let sharedLimit = 4

  /// - Parameter shared: memory that other workers on this host read, for snapshots that are sent; the process's own where
  ///   there is none.
  init(in shared: (any SharedMemory)? = nil) { self.shared = shared }

  /// A buffer of at least so many bytes, its contents undefined. Its memory comes back with its last reference.
  func take(byteCount: Int) -> SnapshotBuffer {
    let (waiting, isShared) = lock.withLock {
      defer { (free, used) = (nil, used + 1) }
      return (free, used < Self.sharedLimit)
    }
    if let waiting, waiting.bytes.count == Stretch.rounded(byteCount) { return SnapshotBuffer(waiting, of: self) }
    return SnapshotBuffer(Stretch(byteCount, in: isShared ? shared : nil), of: self)
  }

  fileprivate func takeBack(_ stretch: Stretch) {
    // Given back to the system, if it is, without the lock.
    let older = lock.withLock {
      defer { (free, used) = (stretch, used - 1) }
      return free
    }
    withExtendedLifetime(older) {}
  }
}

/// A stretch of host memory that goes back to where it was taken with its last reference.
///
// Safe because it is written by who took it, and only read once it has been handed on.
final class SnapshotBuffer: @unchecked Sendable {
  private let stretch: Stretch
  private let home: SnapshotBuffers
  var bytes: UnsafeMutableRawBufferPointer { stretch.bytes }

  fileprivate init(_ stretch: Stretch, of home: SnapshotBuffers) {
    self.stretch = stretch
    self.home = home
  }
  deinit { home.takeBack(stretch) }
}

/// Whole huge pages of host memory, given back to the system with their last reference.
private final class Stretch {
  let bytes: UnsafeMutableRawBufferPointer
  /// Who gives the memory back; nil when it is the process's own.
  private let block: (any SharedBlock)?

  private static let hugePageBytes = 2 << 20
  static func rounded(_ byteCount: Int) -> Int {
    (max(byteCount, 1) + hugePageBytes - 1) / hugePageBytes * hugePageBytes
  }

  init(_ byteCount: Int, in shared: (any SharedMemory)?) {
    let rounded = Self.rounded(byteCount)
    block = shared?.allocate(byteCount: rounded)
    if let block {
      bytes = UnsafeMutableRawBufferPointer(start: block.address, count: rounded)
    } else {
      bytes = .allocate(byteCount: rounded, alignment: Self.hugePageBytes)
      #if canImport(Glibc)
        // The first snapshot then meets a page fault every 2 MiB instead of every 4 KiB.
        _ = madvise(bytes.baseAddress, rounded, MADV_HUGEPAGE)
      #endif
    }
  }
  deinit { if block == nil { bytes.deallocate() } }
}
