import ClusterModel
import Wire

/// A frame on its way to one peer: as a whole where the peer reads it in shared memory, otherwise in chunks.
///
// Safe because the sending thread makes it and then hands it to the I/O thread for good.
final class OutboundFrame: @unchecked Sendable {
  let key: FrameKey
  let element: FrameElement
  let totalBytes: Int
  /// Until the receiver has it.
  private(set) var memory: FrameMemory?
  private let chunkBytes: Int
  /// Of each chunk; those of a frame that was expected to be placed are made when they are needed.
  private var checksums: [UInt32]
  /// Bytes that are sent, and whether all is.
  private(set) var offset = 0
  private(set) var isSent = false

  init(_ key: FrameKey, _ element: FrameElement, _ memory: FrameMemory, chunkBytes: Int, checksums: [UInt32]) {
    self.key = key
    self.element = element
    self.memory = memory
    totalBytes = memory.count
    self.chunkBytes = chunkBytes
    self.checksums = checksums
  }

  /// The checksums of a frame's chunks.
  static func checksums(_ memory: FrameMemory, chunkBytes: Int) -> [UInt32] {
    stride(from: 0, to: max(memory.count, 1), by: chunkBytes).map { start in
      FrameChecksum.of(memory.bytes(start..<min(start + chunkBytes, memory.count)))
    }
  }

  /// The next chunk; an empty frame is one empty chunk.
  var nextChunk: Range<Int> { offset..<min(offset + chunkBytes, totalBytes) }
  var nextChecksum: UInt32 {
    if checksums.isEmpty, let memory { checksums = Self.checksums(memory, chunkBytes: chunkBytes) }
    return checksums[offset / chunkBytes]
  }
  /// Whether it can go as a whole: nothing of it went in chunks.
  var canBePlaced: Bool { offset == 0 && memory?.region != nil }

  func advance() {
    offset = nextChunk.upperBound
    isSent = offset == totalBytes
  }
  func setPlaced() { isSent = true }

  /// Begins again at a chunk that was sent before.
  func rewind(to start: Int) {
    isSent = false
    offset = min(offset, start / chunkBytes * chunkBytes)
  }
  /// The receiver has it: gives the memory back.
  func finish() {
    isSent = true
    memory = nil
  }
}
