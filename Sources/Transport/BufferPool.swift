import Foundation

/// Memory that frames wait in to be sent: blocks of one chunk that are used again and again.
final class BufferPool: Sendable {
  private struct State {
    var free: [UnsafeMutableRawPointer] = []
    var outstandingBytes = 0
  }
  // Safe because the pointers in it are blocks that nobody uses until they are taken out under the lock.
  private final class Guarded: @unchecked Sendable {
    let lock = NSLock()
    var state = State()
  }
  private let guarded = Guarded()
  let blockBytes: Int
  private let keptBlocks: Int

  init(blockBytes: Int, keptBytes: Int) {
    self.blockBytes = blockBytes
    keptBlocks = max(1, keptBytes / blockBytes)
  }
  deinit { for block in guarded.state.free { block.deallocate() } }

  /// Bytes in blocks that are waiting or being sent.
  var outstandingBytes: Int { guarded.lock.withLock { guarded.state.outstandingBytes } }

  func block(bytes: Int) -> PooledBlock {
    precondition(bytes <= blockBytes)
    // Small frames get memory of their own size, so that many of them do not hold a chunk each.
    let pooled = bytes > blockBytes / 4
    let capacity = pooled ? blockBytes : max(bytes, 1)
    let reused: UnsafeMutableRawPointer? = guarded.lock.withLock {
      guarded.state.outstandingBytes += capacity
      return pooled ? guarded.state.free.popLast() : nil
    }
    return PooledBlock(
      memory: reused ?? .allocate(byteCount: capacity, alignment: 64), capacity: capacity, pooled: pooled, pool: self)
  }

  fileprivate func take(back block: borrowing PooledBlock) {
    let kept = guarded.lock.withLock {
      guarded.state.outstandingBytes -= block.capacity
      guard block.pooled, guarded.state.free.count < keptBlocks else { return false }
      guarded.state.free.append(block.memory)
      return true
    }
    if !kept { block.memory.deallocate() }
  }
}

/// Memory for one chunk; goes back to its pool with the last reference, on whatever thread that is.
///
// Safe because it is filled before it is handed to the I/O thread and only read afterwards.
final class PooledBlock: @unchecked Sendable {
  let memory: UnsafeMutableRawPointer
  let capacity: Int
  let pooled: Bool
  private let pool: BufferPool

  fileprivate init(memory: UnsafeMutableRawPointer, capacity: Int, pooled: Bool, pool: BufferPool) {
    self.memory = memory
    self.capacity = capacity
    self.pooled = pooled
    self.pool = pool
  }
  deinit { pool.take(back: self) }
}
