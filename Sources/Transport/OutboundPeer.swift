import ClusterModel
import Wire

/// The sending side toward one peer in one generation: its socket, what waits, what may go. I/O thread only.
final class OutboundPeer {
  let worker: WorkerID
  let socket: Socket
  private let run: RunTag
  private let generation: Generation
  private let me: WorkerID

  private let identity: HostIdentity?
  private let arena: FrameArena

  private var opened = false
  /// The peer has invited us to share memory, and has not refused since.
  private var sharing = false
  private var hasRefused = false
  /// Numbers of the segments that it was told of on this connection.
  private var offered: Set<UInt32> = []
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

  init(
    _ worker: WorkerID, socket: Socket, run: RunTag, generation: Generation, me: WorkerID, identity: HostIdentity?,
    arena: FrameArena
  ) {
    self.identity = identity
    self.arena = arena
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

  /// Introduces us again: after a break the peer knows us by another connection, and may have missed offers.
  func reopen() {
    opened = false
    offered = []
  }

  /// - Returns: whether frames are placed from now on: not for a peer that refused before.
  func invited() -> Bool {
    sharing = !hasRefused
    return sharing
  }
  /// What was placed and not taken goes as chunks instead.
  func refused() {
    hasRefused = true
    guard sharing else { return }
    sharing = false
    for key in waiting.keys.sorted(by: { ($0.step, $0.part, $0.microbatch) < ($1.step, $1.part, $1.microbatch) }) {
      guard let frame = waiting[key], frame.isSent else { continue }
      frame.rewind(to: 0)
      ordered.append(frame)
    }
  }

  /// Whether there is something that only needs room in the socket.
  var isReady: Bool {
    guard opened else { return true }
    if urgent.first != nil { return true }
    guard let frame = ordered.first else { return false }
    return mayCharge(frame)
  }

  private func isPlaced(_ frame: OutboundFrame) -> Bool { sharing && frame.canBePlaced }
  /// What the next message of a frame takes of the peer's memory: of a placed one only its header, of a lent one
  /// its table.
  private func cost(_ frame: OutboundFrame) -> Int {
    guard isPlaced(frame) else { return Mailbox.cost(chunkBytes: frame.nextChunk.count) }
    return Mailbox.cost(chunkBytes: frame.lent.isEmpty ? 0 : ExtentTable.sizeBytes(frame.lent.count))
  }
  private func mayCharge(_ frame: OutboundFrame) -> Bool { grantedBytes - chargedBytes >= cost(frame) }

  /// Sends at most `limit` chunks, as far as there is room, and says what went.
  func pump(limit: Int, counters: inout DataPlaneCounters) throws(TransportError) {
    if !opened {
      guard try sendOpen() else { return }
      opened = true
    }
    for _ in 0..<limit {
      let isUrgent = urgent.first != nil
      guard let frame = urgent.first ?? ordered.first, isUrgent || mayCharge(frame), let memory = frame.memory
      else { return }
      let cost = cost(frame)
      let bytes: Int
      if isPlaced(frame), let region = memory.region {
        for extent in frame.lent { guard try offer(extent.segment.offer) else { return } }
        guard try offer(region.segment.offer),
          try sent(socket.send(Message(placed(frame, region, charged: !isUrgent))))
        else { return }
        bytes = frame.totalBytes
        frame.setPlaced()
      } else {
        if !frame.lent.isEmpty, !frame.gather(from: arena) { continue }
        guard let memory = frame.memory else { return }
        let chunk = frame.nextChunk
        let header = header(
          .data, frame, charged: !isUrgent, offset: chunk.lowerBound, count: chunk.count, checksum: frame.nextChecksum)
        guard try sent(socket.send(Message(header), more: true)) else { return }
        // Room was made for the whole message with its first part.
        _ = try sent(socket.send(Message(sending: memory, chunk)))
        bytes = chunk.count
        frame.advance()
      }
      if !isUrgent { chargedBytes += cost }
      counters.sentBytes += UInt64(bytes)
      if frame.isSent { counters.sentFrames += 1 }
    }
  }

  private func header(
    _ purpose: FrameHeader.Purpose, _ frame: OutboundFrame, charged: Bool, offset: Int, count: Int, checksum: UInt32
  ) -> FrameHeader {
    FrameHeader(
      purpose: purpose, element: frame.element, charged: charged, run: run, generation: generation, sender: me,
      key: frame.key, totalBytes: frame.totalBytes, chunkOffset: offset, chunkBytes: count, payloadChecksum: checksum)
  }

  private func placed(_ frame: OutboundFrame, _ region: FrameMemory.Region, charged: Bool) -> FrameHeader {
    header(
      frame.lent.isEmpty ? .placed : .lent, frame, charged: charged, offset: region.payloadOffset,
      count: Int(region.segment.offer.number),
      checksum: region.stamp)
  }

  private func sendOpen() throws(TransportError) -> Bool {
    var header = FrameHeader(
      purpose: .open, run: run, generation: generation, sender: me, key: FrameKey(kind: .state, step: 0))
    guard let identity else { return try sent(socket.send(Message(header))) }
    let part = Message(size: HostIdentity.sizeBytes)
    identity.write(into: part.mutableBytes)
    header.payloadChecksum = part.withBytes(FrameChecksum.of)
    guard try sent(socket.send(Message(header), more: true)) else { return false }
    return try sent(socket.send(part))
  }

  /// Tells the peer of a segment, once; it maps it before it sees what lies there.
  private func offer(_ offer: SegmentOffer) throws(TransportError) -> Bool {
    guard !offered.contains(offer.number) else { return true }
    let part = Message(size: SegmentOffer.sizeBytes)
    offer.write(into: part.mutableBytes)
    var header = FrameHeader(
      purpose: .share, run: run, generation: generation, sender: me, key: FrameKey(kind: .state, step: 0))
    header.payloadChecksum = part.withBytes(FrameChecksum.of)
    guard try sent(socket.send(Message(header), more: true)) else { return false }
    _ = try sent(socket.send(part))
    offered.insert(offer.number)
    return true
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
