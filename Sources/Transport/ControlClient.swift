import Wire

/// A worker's or observer's end of the control plane, directly or behind a ``ControlRelay``.
///
/// Confined to the thread that made it, which is checked; other threads use ``waker``. Connects in the
/// background and again after a break: messages sent before are kept in order until there is a connection.
public final class ControlClient {
  public static let messagesPerPoll = 256
  /// Messages that wait for a connection.
  public static let queueLimit = 1_024

  public let waker: Waker
  /// Messages so far that were not ours.
  public private(set) var malformedCount: UInt64 = 0
  /// Why the coordinator does not let us in, once that is certain; nothing will come then.
  public var refusal: TransportError? { connection.refusal }
  /// Connections that ended before they were agreed upon, since the last one that was: the coordinator has another
  /// key than ours says, or something else answers there.
  public var failedHandshakes: Int { connection.failedHandshakes }
  private let connection: CoordinatorConnection
  private let isBehindRelay: Bool

  /// - Parameters:
  ///   - address: the coordinator's or a relay's, `tcp://HOST:PORT` or `ipc:///path`.
  ///   - keys: our key pair and the coordinator's key; without them traffic is plain.
  ///   - allowPlaintext: accept that messages outside loopback and ipc are neither secret nor authentic.
  ///   - isRelay: the address is a relay's, which is told what can wait.
  public init(
    address: String, keys: ClientKeys? = nil, allowPlaintext: Bool = false, isRelay: Bool = false
  ) throws(TransportError) {
    isBehindRelay = isRelay
    waker = try Waker()
    connection = try CoordinatorConnection(
      address: address, keys: keys, allowPlaintext: allowPlaintext, in: ZeroMQContext())
  }

  /// Waits for messages at most so long; returns early with what there is, or empty when woken.
  public func poll(timeoutMilliseconds: Int) throws(TransportError) -> [Envelope] {
    try connection.wait(waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    var envelopes: [Envelope] = []
    var taken = 0
    while taken < Self.messagesPerPoll, let (parts, excess) = try connection.receiveParts(atMost: Message.mostParts) {
      taken += 1
      switch Incoming.Content(parts: parts, atMost: Message.mostParts, excess: excess) {
      case .envelope(let envelope): envelopes.append(envelope)
      case .malformed, .gone: malformedCount += 1
      }
    }
    return envelopes
  }

  /// Queues a message; never blocks. What waits for a connection leaves in ``poll(timeoutMilliseconds:)``.
  /// - Throws: ``TransportError``: `congested` when too much waits already.
  public func send(_ envelope: Envelope) throws(TransportError) {
    try connection.send(isBehindRelay ? Message(copying: Bundle.toRelay(envelope)) : Message(envelope))
  }
}
