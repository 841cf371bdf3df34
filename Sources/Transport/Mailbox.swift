import ClusterModel
import Wire

/// What has arrived in this generation and has not been taken.
///
/// A peer may send `windowBytes` that nobody asked for ("charged" chunks, paid back by grants when they are
/// taken), and without bound what somebody waits for: so memory is bounded, and yet no order of sending and
/// receiving can make two workers wait for each other's window.
struct Mailbox {
  struct Slot: Hashable {
    let sender: WorkerID
    let key: FrameKey
  }
  struct Chunk {
    let message: Message
    let offset: Int
    let count: Int
    let checksum: UInt32
    let charged: Bool
  }
  struct Frame {
    var element: FrameElement?
    var totalBytes = 0
    var arrivedBytes = 0
    var chunks: [Chunk] = []
    /// A receiver has asked the sender for it.
    var wanted = false
    /// A receiver is waiting now.
    var awaited = false
    var failure: String?
    var begun: Bool { element != nil }
    var complete: Bool { begun && arrivedBytes == totalBytes }
  }
  private(set) var heldBytes: [WorkerID: Int] = [:]
  var frames: [Slot: Frame] = [:]

  /// What a charged chunk takes of the window: its memory, so that empty frames cost something, too.
  static func cost(chunkBytes: Int) -> Int { chunkBytes + FrameHeader.sizeBytes }

  /// - Returns: whether the chunk was allowed to be sent.
  mutating func accept(_ header: FrameHeader, _ message: Message, windowBytes: Int) -> Bool {
    let slot = Slot(sender: header.sender, key: header.key)
    if header.charged {
      let held = heldBytes[header.sender, default: 0] + Self.cost(chunkBytes: header.chunkBytes)
      guard held <= windowBytes else { return false }
      heldBytes[header.sender] = held
    } else {
      guard frames[slot]?.wanted == true else { return false }
    }
    var frame = frames.removeValue(forKey: slot) ?? Frame()
    if !frame.begun {
      frame.element = header.element
      frame.totalBytes = header.totalBytes
    }
    // Chunks of a frame travel in order on one connection; anything else means that some were lost or doubled.
    if frame.failure == nil,
      frame.totalBytes != header.totalBytes || frame.element != header.element
        || frame.arrivedBytes != header.chunkOffset || (frame.arrivedBytes == frame.totalBytes && header.totalBytes > 0)
    {
      frame.failure =
        "a chunk at byte \(header.chunkOffset) of \(header.totalBytes) came after \(frame.arrivedBytes) of \(frame.totalBytes)"
    }
    frame.arrivedBytes += header.chunkBytes
    frame.chunks.append(
      Chunk(
        message: message, offset: header.chunkOffset, count: header.chunkBytes, checksum: header.payloadChecksum,
        charged: header.charged))
    frames[slot] = frame
    return true
  }

  /// Takes a charged chunk's bytes out of the window.
  /// - Returns: what the sender may be granted again.
  mutating func release(_ chunks: [Chunk], of sender: WorkerID) -> Int {
    let bytes = chunks.reduce(0) { $0 + ($1.charged ? Self.cost(chunkBytes: $1.count) : 0) }
    heldBytes[sender, default: 0] -= bytes
    return bytes
  }
}
