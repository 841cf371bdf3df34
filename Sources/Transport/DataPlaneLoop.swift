import CSystem
import ClusterModel
import Wire

/// The I/O thread of a data plane: the only owner of its sockets.
final class DataPlaneLoop {
  /// Messages taken from one socket, and chunks given to one, before the others have their turn.
  private static let messagesPerTurn = 64
  private static let chunksPerTurn = 16

  private let limits: DataPlaneLimits
  private let keys: KeyPair?
  private let allowPlaintext: Bool
  private let shared: Monitor<DataPlaneState>
  private let waker: Waker
  private let note: @Sendable (String) -> Void
  private let arena: FrameArena
  /// Nil where memory cannot be shared, or must not.
  private let identity: HostIdentity?
  private let context: ZeroMQContext
  private let router: Socket
  private let endpoint: String
  /// With keys: whom the router lets in, and who looks after it.
  private let admitted = AdmittedKeys()
  private let authenticator: Authenticator?

  private var membership: Membership?
  /// In order of the worker ID.
  private var outbound: [OutboundPeer] = []
  private var outboundIndex: [WorkerID: Int] = [:]
  private var inbound: [WorkerID: InboundPeer] = [:]
  /// Peers that entered a newer generation before us.
  private var earlyOpens: [EarlySender: EarlyOpen] = [:]
  private static let earlyOpensLimit = 4_096
  /// Segments of peers, by their number; kept over generations.
  private var mapped: [WorkerID: [UInt32: MappedSegment]] = [:] {
    didSet { counted.mappedBytes = mapped.values.joined().reduce(0) { $0 + $1.value.offer.segmentBytes } }
  }
  /// Peers of this generation some of whose memory cannot be mapped: all their frames come through sockets.
  private var unmappable: Set<WorkerID> = []
  private static let segmentsPerPeer = 1_024
  private var counted = DataPlaneCounters()
  private let clock = ContinuousClock()
  private var lastOpened = ContinuousClock().now

  private struct InboundPeer {
    var routing: [UInt8]?
    /// What the peer may have sent unasked since the generation began.
    var grantedBytes: Int
    /// What of it the peer was not told yet.
    var ungrantedBytes = 0
    var owesGrant = false
    var answers: [Answer] = []
  }
  private struct Answer {
    var purpose: FrameHeader.Purpose
    var key: FrameKey
    var offset = 0
  }
  private static let invitation = Answer(purpose: .invite, key: FrameKey(kind: .state, step: 0))
  /// Who introduced itself, and the key of its connection (nil where traffic is plain): whether they belong
  /// together is known with the generation.
  private struct EarlySender: Hashable {
    var worker: WorkerID
    var key: String?
  }
  private struct EarlyOpen {
    var tag: RunTag
    var generation: Generation
    var routing: [UInt8]
    var sharesHost: Bool
  }

  /// The body of the thread: until told to stop.
  static func run(
    bind: Endpoint, keys: KeyPair?, allowPlaintext: Bool, limits: DataPlaneLimits, shared: Monitor<DataPlaneState>,
    waker: Waker, arena: FrameArena, note: @escaping @Sendable (String) -> Void
  ) {
    // The sockets' own threads inherit it.
    csystem_prefer_short_turns()
    do throws(TransportError) {
      let loop = try DataPlaneLoop(bind, keys, allowPlaintext, limits, shared, waker, arena, note)
      defer { loop.authenticator?.leave(loop.router) }
      shared.change { $0.start = .listening(loop.endpoint) }
      try loop.work()
    } catch {
      shared.change { state in
        if case .pending = state.start { state.start = .failed(error) }
        state.failure = error
      }
    }
    shared.change { $0.ended = true }
  }

  private init(
    _ bind: Endpoint, _ keys: KeyPair?, _ allowPlaintext: Bool, _ limits: DataPlaneLimits,
    _ shared: Monitor<DataPlaneState>, _ waker: Waker, _ arena: FrameArena, _ note: @escaping @Sendable (String) -> Void
  ) throws(TransportError) {
    self.keys = keys
    self.limits = limits
    self.allowPlaintext = allowPlaintext
    self.shared = shared
    self.waker = waker
    self.arena = arena
    self.note = note
    identity = limits.sharedBytes > 0 ? .ours : nil
    context = try ZeroMQContext()
    // What the router sends is bounded by what its peers send and we await; what it takes by the windows.
    router = try Socket(
      .router, in: context,
      limits: .init(messageBytes: WireLimits.chunkBytes, sendMessages: 0, receiveMessages: 64))
    guard let keys else {
      authenticator = nil
      endpoint = try router.bind(bind, .plaintext(allowedOutsideHost: allowPlaintext))
      return
    }
    let authenticator = try Authenticator(
      ServerKeys(keys, admitted: admitted, note: note), domain: "data", stranger: .awaited, in: context)
    self.authenticator = authenticator
    endpoint = try authenticator.bind(router, to: bind)
  }

  private func work() throws(TransportError) {
    while true {
      let commands = shared.withLock { state in
        defer { state.commands.removeAll(keepingCapacity: true) }
        return state.commands
      }
      for command in commands {
        if case .stop = command { return }
        try perform(command)
      }
      try answerPeers()
      if clock.now - lastOpened >= .seconds(limits.retrySeconds) {
        lastOpened = clock.now
        for peer in outbound { peer.reopen() }
      }
      for peer in outbound { try peer.pump(limit: Self.chunksPerTurn, counters: &counted) }
      publishCounters()
      try Socket.wait(
        for: [(router, false)] + outbound.map { ($0.socket, $0.isReady) }, waker: waker,
        timeoutMilliseconds: outbound.isEmpty ? -1 : Int(max(1, limits.retrySeconds * 1_000)))
      try takeFromRouter()
      for peer in outbound { try takeFromDealer(peer) }
    }
  }

  private func perform(_ command: DataPlaneCommand) throws(TransportError) {
    switch command {
    case .enter(let membership): try enter(membership)
    case .send(let frame, let worker):
      if let index = outboundIndex[worker] { outbound[index].enqueue(frame) }
    case .want(let key, let worker): inbound[worker]?.answers.append(Answer(purpose: .want, key: key))
    case .resend(let key, let worker, let offset):
      counted.resendRequests += 1
      inbound[worker]?.answers.append(Answer(purpose: .resend, key: key, offset: offset))
    case .taken(let key, let worker): inbound[worker]?.answers.append(Answer(purpose: .taken, key: key))
    case .grant(let bytes, let worker): allow(bytes, to: worker)
    case .stop: break
    }
  }

  private func allow(_ bytes: Int, to worker: WorkerID) {
    guard var peer = inbound[worker] else { return }
    peer.grantedBytes += bytes
    peer.ungrantedBytes += bytes
    // Many small ones are told together; what is kept back never keeps a chunk from going.
    let chunkCost = Mailbox.cost(chunkBytes: limits.chunkBytes)
    if peer.ungrantedBytes >= (limits.windowBytes - chunkCost) / 4 { peer.owesGrant = true }
    inbound[worker] = peer
  }

  private func enter(_ membership: Membership) throws(TransportError) {
    self.membership = membership
    admitted.admit(only: membership.admissions)
    authenticator?.reconsider()
    authenticator?.connections.close { admitted.find($0) != nil }
    // New connections, so that nothing of the old generation is in them.
    outbound = []
    outboundIndex = [:]
    inbound = [:]
    for (worker, endpoint) in membership.peers.sorted(by: { $0.key < $1.key }) {
      let socket = try Socket(
        .dealer, in: context,
        // A peer that has not entered the generation within 5 s lets us try again: we must not be far behind then.
        limits: .init(messageBytes: 4_096, sendMessages: 16, receiveMessages: 4_096, reconnectMilliseconds: 250))
      try socket.connect(endpoint, security(toward: worker, in: membership))
      outboundIndex[worker] = outbound.count
      outbound.append(
        OutboundPeer(
          worker, socket: socket, run: membership.tag, generation: membership.generation, me: membership.me,
          identity: identity, arena: arena))
      var peer = InboundPeer(grantedBytes: limits.windowBytes)
      let sender = EarlySender(worker: worker, key: membership.publicKeys[worker]?.text)
      if let early = earlyOpens[sender], early.tag == membership.tag, early.generation == membership.generation {
        peer.routing = early.routing
        peer.owesGrant = true
        if early.sharesHost { peer.answers.append(Self.invitation) }
      }
      inbound[worker] = peer
    }
    unmappable = []
    earlyOpens = earlyOpens.filter { $0.value.generation > membership.generation }
    mapped = mapped.filter { membership.peers[$0.key] != nil }
    // Tensors of the generation before, which their owners may have given back.
    for worker in mapped.keys { mapped[worker] = mapped[worker]?.filter { $0.key < LendableRegister.firstNumber } }
  }

  private func security(toward worker: WorkerID, in membership: Membership) -> Socket.Security {
    guard let keys else { return .plaintext(allowedOutsideHost: allowPlaintext) }
    guard let server = membership.publicKeys[worker] else { preconditionFailure("a peer without a key was let in") }
    return .client(keys, server: server)
  }

  /// Sends grants and requests that have come together.
  private func answerPeers() throws(TransportError) {
    guard let membership else { return }
    for worker in membership.peers.keys.sorted() {
      guard let peer = inbound[worker], let routing = peer.routing, peer.owesGrant || !peer.answers.isEmpty else {
        continue
      }
      inbound[worker]?.owesGrant = false
      if peer.owesGrant { inbound[worker]?.ungrantedBytes = 0 }
      inbound[worker]?.answers = []
      var answers = peer.answers
      if peer.owesGrant { answers.append(Answer(purpose: .grant, key: FrameKey(kind: .state, step: 0))) }
      for answer in answers {
        let header = FrameHeader(
          purpose: answer.purpose, run: membership.tag, generation: membership.generation, sender: membership.me,
          key: answer.key, totalBytes: answer.purpose == .grant ? peer.grantedBytes : 0, chunkOffset: answer.offset)
        // A peer that has gone is noticed by who waits for it; one that comes back introduces itself again,
        // and what is still awaited is asked for again.
        guard case .sent = router.send(Message(copying: routing), more: true) else { break }
        if case .failed(let error) = router.send(Message(header)) { throw error }
      }
    }
  }

  // MARK: What arrives

  private func takeFromRouter() throws(TransportError) {
    for _ in 0..<Self.messagesPerTurn {
      guard let (parts, excess) = try router.receiveParts(atMost: 3) else { return }
      guard excess == 0, parts.count >= 2, let header = header(parts[1]) else {
        counted.garbageMessages += 1
        continue
      }
      let key = sender(parts[1])
      guard isTheirs(header, key) else {
        counted.strangerFrames += 1
        continue
      }
      switch header.purpose {
      case .open where parts.count == 2: open(header, routing: parts[0].bytes, identity: nil, key: key)
      case .open where parts.count == 3:
        guard let identity: HostIdentity = content(header, parts[2], HostIdentity.init(reading:)) else { break }
        open(header, routing: parts[0].bytes, identity: identity, key: key)
      case .data where parts.count == 3 && parts[2].count == header.chunkBytes:
        accept(
          header,
          Mailbox.Chunk(
            content: .message(parts[2], checksum: header.payloadChecksum), offset: header.chunkOffset,
            count: header.chunkBytes, charged: header.charged))
      case .share where parts.count == 3:
        guard let offer: SegmentOffer = content(header, parts[2], SegmentOffer.init(reading:)) else { break }
        map(offer, header)
      case .placed where parts.count == 2: acceptPlaced(header)
      case .lent where parts.count == 2: acceptLent(header)
      case .open, .data, .grant, .want, .resend, .taken, .invite, .share, .placed, .lent, .refuse:
        counted.garbageMessages += 1
      }
    }
  }

  /// The text of the key that a message's connection was authenticated with; nil where traffic is plain.
  private func sender(_ message: Message) -> String? {
    guard let authenticator, let text = message.userText else { return nil }
    if let descriptor = message.sourceDescriptor { authenticator.connections.heard(descriptor, of: text) }
    return text
  }

  /// Nobody speaks for another worker: a message of a peer comes over a connection with that peer's key.
  private func isTheirs(_ header: FrameHeader, _ key: String?) -> Bool {
    guard keys != nil else { return true }
    guard let key, admitted.find(key) != nil else { return false }
    // One that is ahead of us may have a number that we do not know yet; it is looked at when we enter.
    guard let membership, header.generation <= membership.generation else { return true }
    return membership.publicKeys[header.sender]?.text == key
  }

  private func takeFromDealer(_ peer: OutboundPeer) throws(TransportError) {
    for _ in 0..<Self.messagesPerTurn {
      guard let (parts, excess) = try peer.socket.receiveParts(atMost: 1) else { return }
      guard excess == 0, let header = header(parts[0]) else {
        counted.garbageMessages += 1
        continue
      }
      guard let membership, header.run == membership.tag, header.sender == peer.worker else {
        counted.strangerFrames += 1
        continue
      }
      guard header.generation == membership.generation else {
        counted.staleFrames += 1
        continue
      }
      switch header.purpose {
      case .grant: peer.granted(header.totalBytes)
      case .want: peer.want(header.key)
      case .resend: peer.want(header.key, resendFrom: header.chunkOffset)
      case .taken: peer.taken(header.key)
      case .invite:
        if identity != nil && peer.invited() { share(with: peer.worker, true) }
      case .refuse:
        peer.refused()
        share(with: peer.worker, false)
        note("\(peer.worker) cannot read this process's memory: tensors for it go through sockets")
      case .open, .data, .share, .placed, .lent: counted.garbageMessages += 1
      }
    }
  }

  private func header(_ message: Message) -> FrameHeader? {
    message.withBytes { bytes in
      do throws(WireError) {
        return try FrameHeader(reading: bytes, checksum: FrameChecksum.of)
      } catch {
        return nil
      }
    }
  }

  /// The second part of a message, if it is what its header says.
  private func content<Content>(
    _ header: FrameHeader, _ message: Message, _ read: (UnsafeRawBufferPointer) throws(WireError) -> Content
  ) -> Content? {
    let content: Content? = message.withBytes { bytes in
      guard FrameChecksum.of(bytes) == header.payloadChecksum else { return nil }
      do throws(WireError) { return try read(bytes) } catch { return nil }
    }
    if content == nil { counted.garbageMessages += 1 }
    return content
  }

  private func open(_ header: FrameHeader, routing: [UInt8], identity theirs: HostIdentity?, key: String?) {
    let sharesHost = theirs != nil && theirs == identity
    if let membership, header.run != membership.tag {
      counted.strangerFrames += 1
      return
    }
    if let membership, header.generation <= membership.generation {
      guard header.generation == membership.generation else {
        counted.staleFrames += 1
        return
      }
      guard inbound[header.sender] != nil else {
        counted.strangerFrames += 1
        return
      }
      // A second introduction changes where answers go, not what is allowed.
      inbound[header.sender]?.routing = routing
      inbound[header.sender]?.owesGrant = true
      if sharesHost { inbound[header.sender]?.answers.append(Self.invitation) }
      return
    }
    let sender = EarlySender(worker: header.sender, key: key)
    if let early = earlyOpens[sender], early.generation > header.generation { return }
    guard earlyOpens[sender] != nil || earlyOpens.count < Self.earlyOpensLimit else {
      counted.strangerFrames += 1
      return
    }
    earlyOpens[sender] = EarlyOpen(
      tag: header.run, generation: header.generation, routing: routing, sharesHost: sharesHost)
  }

  // MARK: Shared memory

  private func share(with worker: WorkerID, _ shares: Bool) {
    shared.withLock { state in
      guard state.membership?.generation == membership?.generation else { return }
      if shares { state.sharingPeers.insert(worker) } else { state.sharingPeers.remove(worker) }
    }
  }

  /// Maps a segment that a peer of this generation offers, or says that its frames must go through sockets.
  private func map(_ offer: SegmentOffer, _ header: FrameHeader) {
    guard isOfThisGeneration(header) else { return }
    let sender = header.sender
    if mapped[sender]?[offer.number]?.offer == offer {
      if !unmappable.contains(sender) { shared.withLock { _ = $0.sharedByPeers.insert(sender) } }
      return
    }
    // Tensors, and frames: each kind has its own limit.
    let isLendable = offer.number >= LendableRegister.firstNumber
    let others = (mapped[sender] ?? [:]).values.reduce(0) { sum, other in
      let counts =
        other.offer.number != offer.number
        && (other.offer.number >= LendableRegister.firstNumber) == isLendable
      return sum + (counts ? other.offer.segmentBytes : 0)
    }
    let limit = isLendable ? limits.lentBytes : limits.sharedBytes
    do throws(TransportError) {
      guard identity != nil, mapped[sender, default: [:]].count < Self.segmentsPerPeer,
        others + offer.segmentBytes <= limit
      else {
        throw .library(operation: "mapping a peer's memory", code: 0, message: "it is over the limit of this process")
      }
      mapped[sender, default: [:]][offer.number] = try MappedSegment(offer)
      if !unmappable.contains(sender) { shared.withLock { _ = $0.sharedByPeers.insert(sender) } }
    } catch {
      unmappable.insert(sender)
      counted.refusedSegments += 1
      note("memory of \(sender) cannot be read, its tensors come through sockets: \(error)")
      shared.withLock { _ = $0.sharedByPeers.remove(sender) }
      inbound[sender]?.answers.append(Answer(purpose: .refuse, key: FrameKey(kind: .state, step: 0)))
    }
  }

  private func isOfThisGeneration(_ header: FrameHeader) -> Bool {
    guard let membership, header.run == membership.tag, membership.peers[header.sender] != nil else {
      counted.strangerFrames += 1
      return false
    }
    guard header.generation == membership.generation else {
      if header.generation < membership.generation { counted.staleFrames += 1 } else { counted.earlyFrames += 1 }
      return false
    }
    return true
  }

  private func acceptPlaced(_ header: FrameHeader) {
    guard isOfThisGeneration(header) else { return }
    // One that is not known may have been offered on a connection that broke: who waits asks again.
    guard let segment = mapped[header.sender]?[UInt32(header.chunkBytes)], header.totalBytes > 0,
      segment.holds(payloadOffset: header.chunkOffset, count: header.totalBytes)
    else {
      counted.violations += 1
      return
    }
    accept(
      header,
      Mailbox.Chunk(
        content: .region(segment, payloadOffset: header.chunkOffset, stamp: header.payloadChecksum), offset: 0,
        count: header.totalBytes, charged: header.charged))
  }

  private func acceptLent(_ header: FrameHeader) {
    guard isOfThisGeneration(header) else { return }
    let segments = mapped[header.sender] ?? [:]
    guard let table = segments[UInt32(header.chunkBytes)], header.totalBytes > 0,
      let pieces = lentPieces(table, at: header.chunkOffset, in: segments), pieces.bytes == header.totalBytes
    else {
      counted.violations += 1
      return
    }
    accept(
      header,
      Mailbox.Chunk(
        content: .lent(
          pieces.pieces, table: table, payloadOffset: header.chunkOffset, stamp: header.payloadChecksum),
        offset: 0, count: header.totalBytes, charged: header.charged))
  }

  /// What a table in a peer's memory names, each piece found to be within a segment that was offered before. The peer may
  /// change the table meanwhile: it is read once.
  private func lentPieces(_ table: MappedSegment, at offset: Int, in segments: [UInt32: MappedSegment])
    -> (pieces: [Mailbox.LentPiece], bytes: Int)?
  {
    guard table.holds(payloadOffset: offset, count: ExtentTable.headBytes) else { return nil }
    guard let count = try? ExtentTable.count(reading: table.payload(at: offset, count: ExtentTable.headBytes)),
      table.holds(payloadOffset: offset, count: ExtentTable.sizeBytes(count))
    else { return nil }
    let copy = [UInt8](table.payload(at: offset, count: ExtentTable.sizeBytes(count)))
    guard let read = try? copy.withUnsafeBytes({ try ExtentTable(reading: $0) }) else { return nil }
    var pieces: [Mailbox.LentPiece] = []
    for extent in read.extents {
      guard let segment = segments[extent.segment], extent.count > 0, extent.count % Mailbox.pieceUnitBytes == 0,
        extent.offset % Mailbox.pieceUnitBytes == 0, segment.holds(lentAt: extent.offset, count: extent.count)
      else { return nil }
      pieces.append(Mailbox.LentPiece(segment: segment, offset: extent.offset, count: extent.count))
    }
    return (pieces, read.totalBytes)
  }

  // MARK: Into the mailbox

  private func accept(_ header: FrameHeader, _ chunk: Mailbox.Chunk) {
    // Decided under the lock: a caller may have entered a newer generation that has not reached this thread.
    shared.change { state in
      guard let membership = state.membership, header.run == membership.tag else {
        counted.strangerFrames += 1
        return
      }
      guard header.generation >= membership.generation else {
        counted.staleFrames += 1
        return
      }
      guard header.generation == membership.generation else {
        counted.earlyFrames += 1
        return
      }
      guard membership.peers[header.sender] != nil else {
        counted.strangerFrames += 1
        return
      }
      switch state.mailbox.accept(header, chunk, windowBytes: limits.windowBytes) {
      case .kept: break
      case .repeated(let returnedBytes):
        counted.repeatedChunks += 1
        if returnedBytes > 0 { allow(returnedBytes, to: header.sender) }
        return
      case .refused:
        counted.violations += 1
        return
      }
      counted.receivedChunks += 1
      counted.receivedBytes += UInt64(chunk.count)
      switch chunk.content {
      case .message: break
      case .region: counted.receivedPlacedFrames += 1
      case .lent: counted.receivedLentFrames += 1
      }
      counted.heldBytesPeak = max(counted.heldBytesPeak, state.mailbox.heldBytes[header.sender] ?? 0)
    }
  }

  private func publishCounters() {
    shared.withLock { $0.counters = counted }
  }
}
