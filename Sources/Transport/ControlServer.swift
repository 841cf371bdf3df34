import Wire

/// Names a connection of the control plane: chosen by the socket, and another one after a reconnect.
public struct PeerIdentity: Hashable, Sendable, CustomStringConvertible {
  let bytes: [UInt8]
  public var description: String {
    "peer "
      + bytes.map { byte in
        let digits = String(byte, radix: 16)
        return digits.count < 2 ? "0" + digits : digits
      }.joined()
  }
}

/// One message that reached the coordinator.
public struct Incoming: Sendable {
  public enum Content: Sendable {
    case envelope(Envelope)
    /// Bytes that are no message of ours; already counted, to be logged at most.
    case malformed(WireError)
  }
  public let peer: PeerIdentity
  public let content: Content
}

/// The coordinator's end of the control plane: one ROUTER socket, bound.
///
/// Confined to the thread that made it, which is checked; other threads use ``waker``. Garbage from anybody
/// is counted and reported, and disturbs nobody.
public final class ControlServer {
  /// Messages taken in one poll: a peer that floods cannot keep the caller from its other work, and the
  /// socket takes from its peers in turns, so it cannot keep out the others either.
  public static let messagesPerPoll = 256

  /// The address that peers connect to, with the port that was taken.
  public let endpoint: String
  public let waker: Waker
  /// Messages so far that were not ours.
  public private(set) var malformedCount: UInt64 = 0
  private let socket: Socket

  /// - Parameters:
  ///   - listen: `tcp://127.0.0.1:7070`, `tcp://127.0.0.1:*` for a free port, or `ipc:///path`.
  ///   - allowPlaintext: accept that messages outside loopback and ipc are neither secret nor authentic.
  /// - Throws: ``TransportError``, among them `addressInUse` and `plaintextRefused`.
  public init(listen: String, allowPlaintext: Bool = false) throws(TransportError) {
    let address = try Endpoint(listen)
    waker = try Waker()
    socket = try Socket(.router, in: ZeroMQContext(), limits: .control)
    endpoint = try socket.bind(address, allowPlaintext: allowPlaintext)
  }

  /// Waits for messages at most so long; returns early with what there is, or empty when woken.
  public func poll(timeoutMilliseconds: Int) throws(TransportError) -> [Incoming] {
    try Socket.wait(for: [(socket, false)], waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    var incoming: [Incoming] = []
    while incoming.count < Self.messagesPerPoll, let (parts, excess) = try socket.receiveParts(atMost: 2) {
      let peer = PeerIdentity(bytes: parts[0].bytes)
      let content = Incoming.Content(parts: Array(parts.dropFirst()), excess: excess)
      if case .malformed = content { malformedCount += 1 }
      incoming.append(Incoming(peer: peer, content: content))
    }
    return incoming
  }

  /// Queues a message for a peer; never blocks.
  /// - Throws: ``TransportError``: `peerUnreachable` when it has gone, `congested` when it takes nothing.
  public func send(_ envelope: Envelope, to peer: PeerIdentity) throws(TransportError) {
    let payload = try Message(envelope)
    let identity = Message(copying: peer.bytes)
    switch socket.send(identity, more: true) {
    case .sent: break
    case .unreachable: throw .peerUnreachable
    case .wouldBlock: throw .congested(queuedMessages: Int(Socket.Limits.control.sendMessages))
    case .failed(let error): throw error
    }
    // The identity was accepted, so there is room for the rest.
    switch socket.send(payload) {
    case .sent: break
    case .unreachable: throw .peerUnreachable
    case .wouldBlock: throw .congested(queuedMessages: Int(Socket.Limits.control.sendMessages))
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
  init(parts: [Message], excess: Int) {
    guard let part = parts.first, parts.count == 1, excess == 0 else {
      self = .malformed(
        .malformed(what: "the message", reason: "it has \(parts.count + excess) parts instead of one"))
      return
    }
    do throws(WireError) {
      self = .envelope(try Envelope(decoding: part.bytes))
    } catch {
      self = .malformed(error)
    }
  }
}

extension Message {
  convenience init(_ envelope: Envelope) throws(TransportError) {
    let bytes = envelope.encoded()
    guard bytes.count <= WireLimits.messageBytes else {
      throw .messageTooLarge(sizeBytes: bytes.count, limitBytes: WireLimits.messageBytes)
    }
    self.init(copying: bytes)
  }
}
