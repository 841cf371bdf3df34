import Wire

/// A worker's or observer's end of the control plane: one DEALER socket, connected.
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
  private let socket: Socket
  private var queue: [Message] = []

  /// - Parameters:
  ///   - address: the coordinator's, `tcp://HOST:PORT` or `ipc:///path`.
  ///   - allowPlaintext: accept that messages outside loopback and ipc are neither secret nor authentic.
  public init(address: String, allowPlaintext: Bool = false) throws(TransportError) {
    let endpoint = try Endpoint(address)
    waker = try Waker()
    socket = try Socket(.dealer, in: ZeroMQContext(), limits: .control)
    try socket.connect(endpoint, allowPlaintext: allowPlaintext)
  }

  /// Waits for messages at most so long; returns early with what there is, or empty when woken.
  public func poll(timeoutMilliseconds: Int) throws(TransportError) -> [Envelope] {
    try flush()
    try Socket.wait(for: [(socket, !queue.isEmpty)], waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    try flush()
    var envelopes: [Envelope] = []
    var taken = 0
    while taken < Self.messagesPerPoll, let (parts, excess) = try socket.receiveParts(atMost: 2) {
      taken += 1
      switch Incoming.Content(parts: parts, excess: excess) {
      case .envelope(let envelope): envelopes.append(envelope)
      case .malformed: malformedCount += 1
      }
    }
    return envelopes
  }

  /// Queues a message; never blocks. What waits for a connection leaves in ``poll(timeoutMilliseconds:)``.
  /// - Throws: ``TransportError``: `congested` when too much waits already.
  public func send(_ envelope: Envelope) throws(TransportError) {
    let message = try Message(envelope)
    guard queue.count < Self.queueLimit else { throw .congested(queuedMessages: queue.count) }
    queue.append(message)
    try flush()
  }

  private func flush() throws(TransportError) {
    var sent = 0
    defer { queue.removeFirst(sent) }
    for message in queue {
      switch socket.send(message) {
      case .sent: sent += 1
      case .wouldBlock, .unreachable: return
      case .failed(let error): throw error
      }
    }
  }
}
