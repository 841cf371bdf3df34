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
  private var chunks: [Chunk?] = []
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

  var isSent: Bool { next == chunks.count }
  var nextCost: Int { Mailbox.cost(chunkBytes: chunks[next]?.count ?? 0) }

  /// The next chunk and where it belongs; call ``advance()`` once it is sent.
  func nextChunk() -> (chunk: Chunk, offset: Int)? { isSent ? nil : chunks[next].map { ($0, offset) } }
  func advance() {
    offset += chunks[next]?.count ?? 0
    // From here on the library alone holds the block.
    chunks[next] = nil
    next += 1
  }
}
