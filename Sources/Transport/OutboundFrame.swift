import ClusterModel
import Wire

/// A frame on its way to one peer: as a whole where the peer reads it in shared memory, otherwise in chunks.
///
// Safe because the sending thread makes it and then hands it to the I/O thread for good.
final class OutboundFrame: @unchecked Sendable {
  let key: FrameKey
  let element: FrameElement
  let totalBytes: Int
  /// Until the receiver has it: its bytes, or the table of what is lent.
  private(set) var memory: FrameMemory?
  /// Where the bytes of a frame lie that stay where they are; empty for others.
  private(set) var lent: [LendableRegister.Extent] = []
  /// Who keeps them unchanged while it lives; nil where they can be taken back.
  private var owner: (any Sendable)?
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

  /// A frame of bytes that stay where they are.
  /// - Parameters:
  ///   - owner: keeps them unchanged while it lives.
  ///   - table: their ``Wire/ExtentTable``.
  init(
    _ key: FrameKey, lending lent: [LendableRegister.Extent], keeping owner: (any Sendable)?, table: FrameMemory,
    chunkBytes: Int
  ) {
    self.key = key
    element = .bytes
    memory = table
    self.lent = lent
    self.owner = owner
    totalBytes = lent.reduce(0) { $0 + $1.count }
    self.chunkBytes = chunkBytes
    checksums = []
  }

  /// Copies what was to be lent: the receiver cannot read it where it lies.
  /// - Returns: false when its owner took it back, maybe while it was copied: then it is sent to nobody.
  func gather(from arena: FrameArena) -> Bool {
    guard let table = memory, table.isPlaced else {
      finish()
      return false
    }
    let gathered = arena.memory(bytes: totalBytes, shared: false)
    var offset = 0
    for extent in lent {
      (gathered.memory + offset).copyMemory(from: extent.segment.memory + extent.offset, byteCount: extent.count)
      offset += extent.count
    }
    guard table.isPlaced else {
      finish()
      return false
    }
    memory = gathered
    lent = []
    owner = nil
    return true
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
    // The table first: with its stamp whoever still reads what was lent can see that it is not any more.
    memory = nil
    lent = []
    owner = nil
  }
  deinit { finish() }
}
