import ClusterModel
import Wire

/// A frame on its way: its bytes copied into blocks, each with its checksum.
///
// Safe because the sending thread fills it and then hands it to the I/O thread for good.
final class OutboundFrame: @unchecked Sendable {
  struct Chunk {
    var block: PooledBlock
    var count: Int
    var checksum: UInt32
  }
  let key: FrameKey
  let element: FrameElement
  let totalBytes: Int
  private var chunks: [Chunk] = []
  private var next = 0
  private var offset = 0

  init(_ key: FrameKey, _ element: FrameElement, copying bytes: UnsafeRawBufferPointer, pool: BufferPool) {
    self.key = key
    self.element = element
    totalBytes = bytes.count
    var start = 0
    // An empty frame is one empty chunk.
    repeat {
      let count = min(pool.blockBytes, bytes.count - start)
      let block = pool.block(bytes: count)
      let part = UnsafeRawBufferPointer(rebasing: bytes[start..<start + count])
      if let source = part.baseAddress, count > 0 { block.memory.copyMemory(from: source, byteCount: count) }
      chunks.append(
        Chunk(
          block: block, count: count,
          checksum: FrameChecksum.of(UnsafeRawBufferPointer(start: block.memory, count: count))))
      start += count
    } while start < bytes.count
  }

  /// Whether there is nothing to send now.
  var isSent: Bool { next == chunks.count }
  var nextCost: Int { Mailbox.cost(chunkBytes: isSent ? 0 : chunks[next].count) }

  /// The next chunk and where it belongs; call ``advance()`` once it is sent.
  func nextChunk() -> (chunk: Chunk, offset: Int)? { isSent ? nil : (chunks[next], offset) }
  func advance() {
    offset += chunks[next].count
    next += 1
  }

  /// Begins again at a chunk that was sent before.
  func rewind(to start: Int) {
    while next > 0 && offset > start {
      next -= 1
      offset -= chunks[next].count
    }
  }

  /// The receiver has it: gives the blocks back.
  func finish() {
    chunks = []
    next = 0
  }
}
