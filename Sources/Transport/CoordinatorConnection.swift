import CZeroMQ

/// One connection to a coordinator: a DEALER socket, and what the library reports of it.
///
/// Confined to the thread that made it, which is checked. Connects in the background and again after a break: messages
/// sent before are kept in order until there is a connection.
final class CoordinatorConnection {
  let address: Endpoint
  /// Why the coordinator does not let us in, once that is certain; nothing will come then.
  private(set) var refusal: TransportError?
  /// Connections that ended before they were agreed upon, since the last one that was: the coordinator has another
  /// key than ours says, or something else answers there.
  private(set) var failedHandshakes = 0
  private let socket: Socket
  private let reports: Socket
  private let isEncrypted: Bool
  private var queue: [Message] = []

  /// - Parameters:
  ///   - address: the coordinator's, or that of a relay to it.
  ///   - keys: our key pair and the coordinator's key; without them traffic is plain.
  ///   - allowPlaintext: accept that messages outside loopback and ipc are neither secret nor authentic.
  init(
    address: String, keys: ClientKeys?, allowPlaintext: Bool, in context: ZeroMQContext
  ) throws(TransportError) {
    let endpoint = try Endpoint(address)
    self.address = endpoint
    isEncrypted = keys != nil
    socket = try Socket(.dealer, in: context, limits: .control)
    // Without a limit: the library must never wait for us to read what it reports.
    reports = try Socket(.pair, in: context, limits: .init(messageBytes: 4_096, sendMessages: 0, receiveMessages: 0))
    try socket.startMonitor(Self.reportsAddress, events: Self.reported)
    try reports.connectInside(Self.reportsAddress)
    try socket.connect(
      endpoint,
      keys.map { .client($0.pair, server: $0.server) } ?? .plaintext(allowedOutsideHost: allowPlaintext))
  }
  deinit { socket.stopMonitor() }

  private static let reportsAddress = "inproc://connection"
  private static let reported =
    ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL
    | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL

  /// Handshakes that end without a word before the server is asked what it speaks.
  private static let handshakesPerQuestion = 3

  private func takeReports() throws(TransportError) {
    while let event = try reports.receiveMonitorEvent() {
      switch event.kind {
      case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
        failedHandshakes = 0
        refusal = nil
      // 300 says that we may try again (RFC 27); that one is not for good.
      case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH where event.value != 300:
        refusal = .notAuthorised(address: address.description)
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        refusal =
          event.value == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
          ? .encryptionDiffers(address: address.description, weEncrypt: isEncrypted)
          : .foreignServer(address: address.description)
      default:
        failedHandshakes += 1
        if failedHandshakes.isMultiple(of: Self.handshakesPerQuestion) { askWhetherItEncrypts() }
      }
    }
  }

  private func askWhetherItEncrypts() {
    guard let mechanism = ServerGreeting.mechanism(at: address) else { return }
    if mechanism != (isEncrypted ? "CURVE" : "NULL") {
      refusal = .encryptionDiffers(address: address.description, weEncrypt: isEncrypted)
    }
  }

  /// Waits at most so long for messages, for one at another socket, or for the waker; sends what had to wait.
  func wait(for others: [Socket] = [], waker: Waker, timeoutMilliseconds: Int) throws(TransportError) {
    try flush()
    try Socket.wait(
      for: [(socket, !queue.isEmpty), (reports, false)] + others.map { ($0, false) }, waker: waker,
      timeoutMilliseconds: timeoutMilliseconds)
    try takeReports()
    try flush()
  }

  /// The next message, as ``Socket/receiveParts(atMost:)``.
  func receiveParts(atMost limit: Int) throws(TransportError) -> (parts: [Message], excess: Int)? {
    try socket.receiveParts(atMost: limit)
  }

  /// Queues a message of one part; never blocks. What waits for a connection leaves in ``wait(for:waker:timeoutMilliseconds:)``.
  /// - Throws: ``TransportError``: `congested` when too much waits already.
  func send(_ message: Message) throws(TransportError) {
    guard queue.count < ControlClient.queueLimit else { throw .congested(queuedMessages: queue.count) }
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
