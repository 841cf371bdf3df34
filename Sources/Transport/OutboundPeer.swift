import ClusterModel
import Wire

/// The sending side toward one peer in one generation: its socket, what waits, what may go. I/O thread only.
final class OutboundPeer {
  let worker: WorkerID
  let socket: Socket
  private let run: RunTag
  private let generation: Generation
  private let me: WorkerID

  private var opened = false
  /// What the peer has allowed, and what we have taken of it, since the generation began.
  private var grantedBytes = 0
  private var chargedBytes = 0
  private var ordered = FrameQueue()
  private var urgent = FrameQueue()
  /// Everything that the peer has not said it has.
  private var waiting: [FrameKey: OutboundFrame] = [:]
  /// Frames that the peer asked for before they were here. A request that crossed the end of its frame on the
  /// way stays behind, so the oldest go: a peer waits for few frames at a time.
  private var wanted: Set<FrameKey> = []
  private var wantedInOrder: [FrameKey] = []
  private static let wantedLimit = 4_096

  init(_ worker: WorkerID, socket: Socket, run: RunTag, generation: Generation, me: WorkerID) {
    self.worker = worker
    self.socket = socket
    self.run = run
    self.generation = generation
    self.me = me
  }

  func enqueue(_ frame: OutboundFrame) {
    waiting[frame.key] = frame
    if wanted.remove(frame.key) != nil { urgent.append(frame) } else { ordered.append(frame) }
  }

  /// The total that the peer has allowed: a total, so that one that was lost does not matter.
  func granted(_ bytes: Int) { grantedBytes = max(grantedBytes, bytes) }

  func want(_ key: FrameKey, resendFrom offset: Int? = nil) {
    if let frame = waiting[key] {
      if let offset { frame.rewind(to: offset) }
      if !frame.isSent { urgent.append(frame) }
      return
    }
    guard wanted.insert(key).inserted else { return }
    wantedInOrder.append(key)
    if wantedInOrder.count > 2 * Self.wantedLimit {
      let dropped = wantedInOrder.count - Self.wantedLimit
      wanted.subtract(wantedInOrder.prefix(dropped))
      wantedInOrder.removeFirst(dropped)
    }
  }

  func taken(_ key: FrameKey) { waiting.removeValue(forKey: key)?.finish() }

  /// Introduces us again: after a break the peer knows us by another connection.
  func reopen() { opened = false }

  /// Whether there is something that only needs room in the socket.
  var isReady: Bool {
    guard opened else { return true }
    if urgent.first != nil { return true }
    guard let frame = ordered.first else { return false }
    return mayCharge(frame)
  }

  private func mayCharge(_ frame: OutboundFrame) -> Bool { grantedBytes - chargedBytes >= frame.nextCost }

  /// Sends at most `limit` chunks, as far as there is room, and says what went.
  func pump(limit: Int, counters: inout DataPlaneCounters) throws(TransportError) {
    if !opened {
      let open = FrameHeader(
        purpose: .open, run: run, generation: generation, sender: me, key: FrameKey(kind: .state, step: 0))
      guard try sent(socket.send(Message(open))) else { return }
      opened = true
    }
    for _ in 0..<limit {
      let isUrgent = urgent.first != nil
      guard let frame = urgent.first ?? ordered.first, isUrgent || mayCharge(frame),
        let (chunk, offset) = frame.nextChunk()
      else { return }
      let header = FrameHeader(
        purpose: .data, element: frame.element, charged: !isUrgent, run: run, generation: generation, sender: me,
        key: frame.key, totalBytes: frame.totalBytes, chunkOffset: offset, chunkBytes: chunk.count,
        payloadChecksum: chunk.checksum)
      guard try sent(socket.send(Message(header), more: true)) else { return }
      // Room was made for the whole message with its first part.
      _ = try sent(socket.send(Message(sending: chunk.block, count: chunk.count)))
      if !isUrgent { chargedBytes += frame.nextCost }
      frame.advance()
      counters.sentBytes += UInt64(chunk.count)
      if frame.isSent { counters.sentFrames += 1 }
    }
  }

  private func sent(_ result: Socket.SendResult) throws(TransportError) -> Bool {
    switch result {
    case .sent: return true
    case .wouldBlock, .unreachable: return false
    case .failed(let error): throw error
    }
  }
}

/// Frames in order; those that were sent by another way are skipped.
private struct FrameQueue {
  private var frames: [OutboundFrame?] = []
  private var head = 0

  mutating func append(_ frame: OutboundFrame) {
    if head > 1_024 && head > frames.count / 2 {
      frames.removeFirst(head)
      head = 0
    }
    frames.append(frame)
  }

  var first: OutboundFrame? {
    mutating get {
      while head < frames.count {
        if let frame = frames[head], !frame.isSent { return frame }
        frames[head] = nil
        head += 1
      }
      frames.removeAll(keepingCapacity: true)
      head = 0
      return nil
    }
  }
}

extension Message {
  convenience init(_ header: FrameHeader) {
    self.init(size: FrameHeader.sizeBytes)
    header.write(into: mutableBytes, checksum: FrameChecksum.of)
  }
}
