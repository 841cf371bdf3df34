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
  /// Where bytes are that have arrived.
  enum Content {
    /// In a message of ours, to be checked against its checksum.
    case message(Message, checksum: UInt32)
    /// In the sender's memory, until we say that we have taken them.
    case region(MappedSegment, payloadOffset: Int, stamp: UInt32)
    /// In several places of the sender's memory, as a table with this stamp said.
    case lent([LentPiece], table: MappedSegment, payloadOffset: Int, stamp: UInt32)

    /// What they take of our memory.
    func heldBytes(_ count: Int) -> Int {
      switch self {
      case .message: count
      case .region: 0
      case .lent(let pieces, _, _, _): ExtentTable.sizeBytes(pieces.count)
      }
    }
  }
  /// Bytes in a peer's memory, within its segment.
  struct LentPiece {
    let segment: MappedSegment
    let offset: Int
    let count: Int
  }
  struct Chunk {
    let content: Content
    let offset: Int
    let count: Int
    let charged: Bool
    var cost: Int { charged ? Mailbox.cost(chunkBytes: content.heldBytes(count)) : 0 }
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
  /// Chunks of a frame, and the pieces of a lent one, begin and end at multiples of it.
  static let pieceUnitBytes = 4
  private(set) var heldBytes: [WorkerID: Int] = [:]
  var frames: [Slot: Frame] = [:]

  /// What a charged chunk takes of the window: its memory, so that empty frames cost something, too.
  static func cost(chunkBytes: Int) -> Int { chunkBytes + FrameHeader.sizeBytes }

  enum Verdict: Equatable {
    case kept
    /// It does not continue its frame; what it took of the sender's grant is given back.
    case repeated(returnedBytes: Int)
    case refused
  }

  /// Takes in a chunk, if its sender was allowed to send it and it is the next of its frame.
  mutating func accept(_ header: FrameHeader, _ chunk: Chunk, windowBytes: Int) -> Verdict {
    let slot = Slot(sender: header.sender, key: header.key)
    let held = heldBytes[header.sender, default: 0] + chunk.cost
    guard header.charged ? held <= windowBytes : frames[slot]?.wanted == true else { return .refused }
    // Readers are promised whole elements in every piece.
    let end = chunk.offset + chunk.count
    guard end == header.totalBytes || (chunk.count > 0 && end % Self.pieceUnitBytes == 0) else { return .refused }
    var frame = frames.removeValue(forKey: slot) ?? Frame()
    defer { frames[slot] = frame.begun || frame.wanted ? frame : nil }
    if frame.begun && (frame.totalBytes != header.totalBytes || frame.element != header.element) {
      frame.failure =
        "one chunk says \(frame.totalBytes) bytes, another \(header.totalBytes), or their elements differ"
    }
    // Chunks of a frame travel in order, so another one is a repetition, or some before it were lost with
    // their connection; those are asked for again.
    guard chunk.offset == frame.arrivedBytes, !frame.complete, frame.failure == nil else {
      return .repeated(returnedBytes: chunk.cost)
    }
    frame.element = header.element
    frame.totalBytes = header.totalBytes
    frame.arrivedBytes += chunk.count
    frame.chunks.append(chunk)
    heldBytes[header.sender] = held
    return .kept
  }

  /// Takes a charged chunk's bytes out of the window.
  /// - Returns: what the sender may be granted again.
  mutating func release(_ chunks: [Chunk], of sender: WorkerID) -> Int {
    let bytes = chunks.reduce(0) { $0 + $1.cost }
    heldBytes[sender, default: 0] -= bytes
    return bytes
  }
}
