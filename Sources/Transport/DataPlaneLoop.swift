import ClusterModel
import Wire

/// The I/O thread of a data plane: the only owner of its sockets.
final class DataPlaneLoop {
  /// Messages taken from one socket, and chunks given to one, before the others have their turn.
  private static let messagesPerTurn = 64
  private static let chunksPerTurn = 16

  private let limits: DataPlaneLimits
  private let allowPlaintext: Bool
  private let shared: Monitor<DataPlaneState>
  private let waker: Waker
  private let context: ZeroMQContext
  private let router: Socket
  private let endpoint: String

  private var membership: Membership?
  /// In order of the worker ID.
  private var outbound: [OutboundPeer] = []
  private var outboundIndex: [WorkerID: Int] = [:]
  private var inbound: [WorkerID: InboundPeer] = [:]
  /// Peers that entered a newer generation before us.
  private var earlyOpens: [WorkerID: EarlyOpen] = [:]
  private static let earlyOpensLimit = 4_096
  private var counted = DataPlaneCounters()
  private let clock = ContinuousClock()
  private var lastOpened = ContinuousClock().now

  private struct InboundPeer {
    var routing: [UInt8]?
    /// What the peer may have sent unasked since the generation began.
    var grantedBytes: Int
    var owesGrant = false
    var answers: [Answer] = []
  }
  private struct Answer {
    var purpose: FrameHeader.Purpose
    var key: FrameKey
    var offset = 0
  }
  private struct EarlyOpen {
    var tag: RunTag
    var generation: Generation
    var routing: [UInt8]
  }

  /// The body of the thread: until told to stop.
  static func run(
    bind: Endpoint, allowPlaintext: Bool, limits: DataPlaneLimits, shared: Monitor<DataPlaneState>, waker: Waker
  ) {
    do throws(TransportError) {
      let loop = try DataPlaneLoop(bind, allowPlaintext, limits, shared, waker)
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
    _ bind: Endpoint, _ allowPlaintext: Bool, _ limits: DataPlaneLimits, _ shared: Monitor<DataPlaneState>,
    _ waker: Waker
  ) throws(TransportError) {
    self.limits = limits
    self.allowPlaintext = allowPlaintext
    self.shared = shared
    self.waker = waker
    context = try ZeroMQContext()
    // What the router sends is bounded by what its peers send and we await; what it takes by the windows.
    router = try Socket(
      .router, in: context,
      limits: .init(messageBytes: WireLimits.chunkBytes, sendMessages: 0, receiveMessages: 64))
    endpoint = try router.bind(bind, allowPlaintext: allowPlaintext)
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
    inbound[worker]?.grantedBytes += bytes
    inbound[worker]?.owesGrant = true
  }

  private func enter(_ membership: Membership) throws(TransportError) {
    self.membership = membership
    // New connections, so that nothing of the old generation is in them.
    outbound = []
    outboundIndex = [:]
    inbound = [:]
    for (worker, endpoint) in membership.peers.sorted(by: { $0.key < $1.key }) {
      let socket = try Socket(
        .dealer, in: context, limits: .init(messageBytes: 4_096, sendMessages: 16, receiveMessages: 4_096))
      try socket.connect(endpoint, allowPlaintext: allowPlaintext)
      outboundIndex[worker] = outbound.count
      outbound.append(
        OutboundPeer(
          worker, socket: socket, run: membership.tag, generation: membership.generation, me: membership.me))
      var peer = InboundPeer(grantedBytes: limits.windowBytes)
      if let early = earlyOpens[worker], early.tag == membership.tag, early.generation == membership.generation {
        peer.routing = early.routing
        peer.owesGrant = true
      }
      inbound[worker] = peer
    }
    earlyOpens = earlyOpens.filter { $0.value.generation > membership.generation }
  }

  /// Sends grants and requests that have come together.
  private func answerPeers() throws(TransportError) {
    guard let membership else { return }
    for worker in membership.peers.keys.sorted() {
      guard let peer = inbound[worker], let routing = peer.routing, peer.owesGrant || !peer.answers.isEmpty else {
        continue
      }
      inbound[worker]?.owesGrant = false
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
      switch header.purpose {
      case .open where parts.count == 2: open(header, routing: parts[0].bytes)
      case .data where parts.count == 3 && parts[2].count == header.chunkBytes: accept(header, parts[2])
      case .open, .data, .grant, .want, .resend, .taken: counted.garbageMessages += 1
      }
    }
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
      case .open, .data: counted.garbageMessages += 1
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

  private func open(_ header: FrameHeader, routing: [UInt8]) {
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
      return
    }
    if let early = earlyOpens[header.sender], early.generation > header.generation { return }
    guard earlyOpens[header.sender] != nil || earlyOpens.count < Self.earlyOpensLimit else {
      counted.strangerFrames += 1
      return
    }
    earlyOpens[header.sender] = EarlyOpen(tag: header.run, generation: header.generation, routing: routing)
  }

  private func accept(_ header: FrameHeader, _ payload: Message) {
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
      switch state.mailbox.accept(header, payload, windowBytes: limits.windowBytes) {
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
      counted.receivedBytes += UInt64(header.chunkBytes)
      counted.heldBytesPeak = max(counted.heldBytesPeak, state.mailbox.heldBytes[header.sender] ?? 0)
    }
  }

  private func publishCounters() {
    shared.withLock { $0.counters = counted }
  }
}
