import Wire

/// Names a connection of the control plane: chosen by the socket, and another one after a reconnect.
public struct PeerIdentity: Hashable, Sendable, CustomStringConvertible {
  let bytes: [UInt8]
  /// Which of those behind a relay; nil for who has a connection of its own.
  let seat: UInt32?
  /// The key that it proved to hold; nil where traffic is plain. Those behind a relay have the relay's.
  public let key: PublicKey?
  /// For example `6b8b4567`, or `6b8b4567/3` for seat 3. Made for every message that arrives, and looked up several
  /// times: within 15 bytes, so that it needs no memory of its own.
  public var description: String {
    let digits = StaticString("0123456789abcdef")
    // Names that the socket chooses have five bytes and begin with a zero; others are marked, so that none is alike.
    let isUsual = bytes.count == 5 && bytes[0] == 0
    let shown = isUsual ? bytes.dropFirst() : bytes[...]
    var digitsOfSeat = 0
    if var rest = seat {
      repeat {
        digitsOfSeat += 1
        rest /= 10
      } while rest > 0
    }
    let count = 2 * shown.count + (seat == nil ? 0 : 1 + digitsOfSeat)
    let name = String(unsafeUninitializedCapacity: count) { text in
      // Safe because as many are written as there is room for, and each digit is below 16.
      for (index, byte) in shown.enumerated() {
        text[2 * index] = digits.utf8Start[Int(byte >> 4)]
        text[2 * index + 1] = digits.utf8Start[Int(byte & 15)]
      }
      guard var rest = seat else { return count }
      text[2 * shown.count] = UInt8(ascii: "/")
      for index in (count - digitsOfSeat..<count).reversed() {
        text[index] = digits.utf8Start[Int(rest % 10)]
        rest /= 10
      }
      return count
    }
    return isUsual ? name : "=" + name
  }
}

/// One message that reached the coordinator.
public struct Incoming: Sendable {
  public enum Content: Sendable {
    case envelope(Envelope)
    /// Bytes that are no message of ours; already counted, to be logged at most.
    case malformed(WireError)
    /// Who was behind a relay is not there any more.
    case gone
  }
  public let peer: PeerIdentity
  public let content: Content
}

/// The coordinator's end of the control plane: one ROUTER socket, bound.
///
/// Confined to the thread that made it, which is checked; other threads use ``waker``. Garbage from anybody
/// is counted and reported, and disturbs nobody. With keys, only whom they admit is heard, message by message: a
/// key that is struck off is out at once, connected or not.
public final class ControlServer {
  /// Messages taken in one poll: a peer that floods cannot keep the caller from its other work, and the
  /// socket takes from its peers in turns, so it cannot keep out the others either.
  public static let messagesPerPoll = 256
  /// As many in a bundle count as one of these.
  static let bundledPerMessage = 8

  /// The address that peers connect to, with the port that was taken.
  public let endpoint: String
  public let waker: Waker
  /// Messages so far that were not ours.
  public private(set) var malformedCount: UInt64 = 0
  /// Messages of keys that are not admitted any more, or that an observer may not send.
  public private(set) var refusedCount: UInt64 = 0
  /// Messages of connections that sent more than ``ControlRate`` allows.
  public private(set) var excessCount: UInt64 = 0
  private let socket: Socket
  private let admitted: AdmittedKeys?
  private let authenticator: Authenticator?
  private var rates: ConnectionRates
  private let clock = ContinuousClock()
  /// The newest order, encoded: it may have to be sent again to single workers.
  private var newestOrder: (envelope: Envelope, parts: [Message])?
  /// Whom the newest message to several was for: orders go to the same thousands again and again.
  private var newestGroups: (peers: [PeerIdentity], groups: [Group])?

  /// - Parameters:
  ///   - listen: `tcp://127.0.0.1:7070`, `tcp://127.0.0.1:*` for a free port, or `ipc:///path`.
  ///   - keys: whom to admit, encrypted; without them traffic is plain.
  ///   - allowPlaintext: accept that messages outside loopback and ipc are neither secret nor authentic.
  ///   - rate: what each connection may send.
  /// - Throws: ``TransportError``, among them `addressInUse` and `plaintextRefused`.
  public init(
    listen: String, keys: ServerKeys? = nil, allowPlaintext: Bool = false, rate: ControlRate = ControlRate()
  ) throws(TransportError) {
    let address = try Endpoint(listen)
    let context = try ZeroMQContext()
    waker = try Waker()
    rates = ConnectionRates(rate)
    socket = try Socket(.router, in: context, limits: .control)
    admitted = keys?.admitted
    guard let keys else {
      authenticator = nil
      endpoint = try socket.bind(address, .plaintext(allowedOutsideHost: allowPlaintext))
      return
    }
    let authenticator = try Authenticator(keys, domain: "control", stranger: .refused, in: context)
    self.authenticator = authenticator
    endpoint = try authenticator.bind(socket, to: address)
  }
  deinit { authenticator?.leave(socket) }

  /// Hangs up on whoever is not admitted any more: what their keys say is not heard in any case.
  public func hangUpOnStrangers() {
    guard let authenticator, let admitted else { return }
    authenticator.connections.close { admitted.find($0) != nil }
  }

  /// Waits for messages at most so long; returns early with what there is, or empty when woken.
  public func poll(timeoutMilliseconds: Int) throws(TransportError) -> [Incoming] {
    var incoming: [Incoming] = []
    try poll(timeoutMilliseconds: timeoutMilliseconds) { incoming.append($0) }
    return incoming
  }

  /// The same, one after the other as they are read.
  public func poll(timeoutMilliseconds: Int, take: (Incoming) -> Void) throws(TransportError) {
    try Socket.wait(for: [(socket, false)], waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    var taken = 0
    let now = clock.now
    while taken < Self.messagesPerPoll, let (parts, excess) = try socket.receiveParts(atMost: 2) {
      let identity = parts[0].bytes
      let sizeBytes = parts.dropFirst().reduce(0) { $0 + $1.count }
      let bundle = parts.count == 2 && excess == 0 ? Self.bundle(parts[1]) : nil
      var cost = ControlRate.cost(bytes: sizeBytes)
      taken += 1
      if case .success(let bundle) = bundle {
        taken += bundle.entries.count / Self.bundledPerMessage
        cost += ControlRate.cost(further: bundle.entries.count - 1)
      }
      guard rates.take(cost, from: identity, now: now) else {
        excessCount += 1
        continue
      }
      var key: PublicKey?
      var role = AdmittedKeys.Role.worker
      if let admitted {
        guard let sender = parts.last.flatMap({ sender($0, among: admitted) }) else {
          refusedCount += 1
          continue
        }
        key = sender.key
        role = sender.admission.role
      }
      if bundle != nil, role != .worker {
        refusedCount += 1
        continue
      }
      func say(_ content: Incoming.Content, seat: UInt32? = nil) {
        switch content {
        case .malformed: malformedCount += 1
        case .gone: break
        case .envelope(let envelope):
          guard role == .worker || envelope.message == .statusRequest else {
            refusedCount += 1
            return
          }
        }
        take(Incoming(peer: PeerIdentity(bytes: identity, seat: seat, key: key), content: content))
      }
      switch bundle {
      case nil: say(Incoming.Content(parts: Array(parts.dropFirst()), atMost: 1, excess: excess))
      case .failure(let error): say(.malformed(error))
      case .success(let bundle):
        for entry in bundle.entries {
          say(entry.envelope.isEmpty ? .gone : Incoming.Content(bundle.bytes[entry.envelope]), seat: entry.seat)
        }
      }
    }
  }

  /// Nil for a message of a peer that speaks for itself.
  private static func bundle(_ message: Message) -> Result<Bundle, WireError>? {
    guard Bundle.isBundle(firstByte: message.firstByte) else { return nil }
    let bytes = message.bytes
    return Result { () throws(WireError) in try Bundle(reading: bytes) }
  }

  /// Whose message it is, if they are admitted; its connection counts as theirs from now on.
  private func sender(
    _ message: Message, among admitted: AdmittedKeys
  ) -> (key: PublicKey, admission: AdmittedKeys.Admission)? {
    guard let text = message.userText else { return nil }
    if let descriptor = message.sourceDescriptor { authenticator?.connections.heard(descriptor, of: text) }
    return admitted.find(text)
  }

  /// Queues a message for each of several peers; never blocks. It is encoded once, and its bytes shared.
  /// - Returns: whom it was not sent to, by index, and why: `peerUnreachable` when the peer has gone or is not admitted
  ///   any more, `congested` when it takes nothing, `messageTooLarge`.
  public func send(_ envelope: Envelope, to peers: [PeerIdentity]) -> [(index: Int, error: TransportError)] {
    guard !peers.isEmpty else { return [] }
    let parts: [Message]
    do throws(TransportError) { parts = try encoded(envelope) } catch { return peers.indices.map { ($0, error) } }
    var failures: [(index: Int, error: TransportError)] = []
    // An order that is sent again to one must not cost the memory of all.
    if peers.count == 1 { return sendAlone(parts, to: peers[0]) }
    if newestGroups?.peers != peers { newestGroups = (peers, Self.groups(of: peers)) }
    for group in newestGroups?.groups ?? [] {
      do throws(TransportError) { try send(parts, to: peers[group.peers[0]], seats: group.seats) } catch {
        failures += group.peers.map { ($0, error) }
      }
    }
    return failures
  }

  private func sendAlone(_ parts: [Message], to peer: PeerIdentity) -> [(index: Int, error: TransportError)] {
    do throws(TransportError) { try send(parts, to: peer) } catch { return [(0, error)] }
    return []
  }

  /// Those behind a relay, which gets a message once for all of them; each of the others by itself.
  private struct Group {
    /// By index.
    var peers: [Int]
    /// For the relay, encoded; empty where there is none.
    var seats: [UInt8] = []
  }
  private static func groups(of peers: [PeerIdentity]) -> [Group] {
    var groups: [Group] = []
    /// A relay's newest group.
    var groupOf: [[UInt8]: Int] = [:]
    for (index, peer) in peers.enumerated() {
      if peer.seat != nil {
        if let group = groupOf[peer.bytes], groups[group].peers.count < Bundle.entriesLimit {
          groups[group].peers.append(index)
          continue
        }
        groupOf[peer.bytes] = groups.count
      }
      groups.append(Group(peers: [index]))
    }
    for index in groups.indices {
      groups[index].seats = SeatList(groups[index].peers.compactMap { peers[$0].seat }).bytes
    }
    return groups
  }

  /// Queues a message for a peer; never blocks.
  /// - Throws: ``TransportError`` as of several.
  public func send(_ envelope: Envelope, to peer: PeerIdentity) throws(TransportError) {
    try send(encoded(envelope), to: peer)
  }
  private func send(_ parts: [Message], to peer: PeerIdentity) throws(TransportError) {
    try send(parts, to: peer, seats: SeatList(peer.seat.map { [$0] } ?? []).bytes)
  }

  private func encoded(_ envelope: Envelope) throws(TransportError) -> [Message] {
    if envelope.order > 0, let newestOrder, newestOrder.envelope == envelope { return newestOrder.parts }
    let parts = try Message.parts(of: envelope)
    if envelope.order > 0 { newestOrder = (envelope, parts) }
    return parts
  }

  /// - Parameters:
  ///   - peer: one that has a connection of its own, or any of those behind a relay.
  ///   - seats: of those behind the relay, encoded.
  private func send(_ parts: [Message], to peer: PeerIdentity, seats: [UInt8]) throws(TransportError) {
    // Nothing is told to a key that has been struck off, though its connection may still be there.
    if let admitted { guard let key = peer.key, admitted.admission(of: key) != nil else { throw .peerUnreachable } }
    // Once the identity is accepted there is room for the rest.
    try socket.queue(Message(copying: peer.bytes), more: true)
    if !seats.isEmpty { try socket.queue(Message(copying: seats), more: true) }
    for (index, part) in parts.enumerated() { try socket.queue(Message(sharing: part), more: index + 1 < parts.count) }
  }
}

extension Socket {
  /// Sends a part over a socket of control messages.
  /// - Throws: ``TransportError/peerUnreachable`` or ``TransportError/congested(queuedMessages:)`` as well.
  func queue(_ message: Message, more: Bool) throws(TransportError) {
    switch send(message, more: more) {
    case .sent: break
    case .unreachable: throw .peerUnreachable
    case .wouldBlock: throw .congested(queuedMessages: Int(Limits.control.sendMessages))
    case .failed(let error): throw error
    }
  }
}

extension Socket.Limits {
  static let control = Socket.Limits(
    messageBytes: WireLimits.messageBytes, sendMessages: 4_096, receiveMessages: 64)
}

extension Incoming.Content {
  /// - Parameter parts: the message without the identity that the socket puts before it.
  init(parts: [Message], atMost limit: Int, excess: Int) {
    guard !parts.isEmpty, parts.count <= limit, excess == 0 else {
      self = .malformed(
        .malformed(what: "the message", reason: "it has \(parts.count + excess) parts of at most \(limit)"))
      return
    }
    let sizeBytes = parts.reduce(0) { $0 + $1.count }
    guard sizeBytes <= WireLimits.messageBytes else {
      self = .malformed(.malformed(what: "the message", reason: "its parts have \(sizeBytes) bytes"))
      return
    }
    self.init((parts.count == 1 ? parts[0].bytes : parts.flatMap(\.bytes))[...])
  }
  init(_ bytes: ArraySlice<UInt8>) {
    do throws(WireError) { self = .envelope(try Envelope(decoding: bytes)) } catch { self = .malformed(error) }
  }
}

extension Message {
  /// What the library writes to one connection before it looks at the others (`ZMQ_OUT_BATCH_SIZE`), with room for a
  /// frame's header and encryption. A plan for thousands goes to thousands: written whole to one after the other, it
  /// would keep the coordinator from hearing that they live.
  static let partBytes = 8_000
  static let mostParts = WireLimits.messageBytes / partBytes + 1

  convenience init(_ envelope: Envelope) throws(TransportError) { self.init(copying: try Self.checked(envelope)) }

  /// The same in parts, one after the other.
  static func parts(of envelope: Envelope) throws(TransportError) -> [Message] {
    let bytes = try checked(envelope)
    return stride(from: 0, to: bytes.count, by: partBytes).map {
      Message(copying: Array(bytes[$0..<min($0 + partBytes, bytes.count)]))
    }
  }

  private static func checked(_ envelope: Envelope) throws(TransportError) -> [UInt8] {
    let bytes = envelope.encoded()
    guard bytes.count <= WireLimits.messageBytes else {
      throw .messageTooLarge(sizeBytes: bytes.count, limitBytes: WireLimits.messageBytes)
    }
    return bytes
  }
}
