import CZeroMQ

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A ZeroMQ context; lives until its last socket is closed.
///
// Safe because contexts are the one thing in ZeroMQ that all threads may use.
final class ZeroMQContext: @unchecked Sendable {
  let handle: UnsafeMutableRawPointer

  init() throws(TransportError) {
    guard let handle = zmq_ctx_new() else { throw Socket.failure("zmq_ctx_new") }
    self.handle = handle
  }
  deinit {
    // Sockets hold the context, so none is open; with LINGER 0 this returns at once.
    while zmq_ctx_term(handle) != 0 && zmq_errno() == EINTR {}
  }
}

/// The only owner of a ZeroMQ socket: one thread makes it and makes every call, which is checked.
final class Socket {
  enum Kind { case router, dealer, pair }
  struct Limits {
    var messageBytes: Int
    var sendMessages: Int32
    var receiveMessages: Int32
    /// The longest pause before a connecting socket tries again.
    var reconnectMilliseconds: Int32 = 2_000
  }
  /// What protects a socket; chosen before it binds or connects.
  enum Security {
    /// Refused outside loopback and ipc, unless the user accepts it there.
    case plaintext(allowedOutsideHost: Bool)
    /// Bound: CURVE with this key, and an ``Authenticator`` for the domain in the same context, without which
    /// nobody gets in.
    case server(KeyPair, domain: String)
    /// Connecting: CURVE as the first, to nobody but the second.
    case client(KeyPair, server: PublicKey)
  }
  enum SendResult {
    case sent, wouldBlock, unreachable
    case failed(TransportError)
  }

  let handle: UnsafeMutableRawPointer
  private let context: ZeroMQContext
  private let owner = pthread_self()

  init(_ kind: Kind, in context: ZeroMQContext, limits: Limits) throws(TransportError) {
    self.context = context
    let type =
      switch kind {
      case .router: ZMQ_ROUTER
      case .dealer: ZMQ_DEALER
      case .pair: ZMQ_PAIR
      }
    guard let handle = zmq_socket(context.handle, type) else { throw Self.failure("zmq_socket") }
    self.handle = handle
    // What has not been acknowledged by our own messages is lost when we go: nobody waits for it.
    try set(ZMQ_LINGER, 0)
    try set(ZMQ_SNDHWM, limits.sendMessages)
    try set(ZMQ_RCVHWM, limits.receiveMessages)
    // The library measures a message with what encryption adds to it (33 bytes, RFC 26).
    try setWide(ZMQ_MAXMSGSIZE, Int64(limits.messageBytes + 64))
    try set(ZMQ_HANDSHAKE_IVL, 5_000)
    // A peer behind a cut wire is noticed in seconds, where TCP alone would go on sending for minutes: what was sent and
    // is not acknowledged ends the connection (TCP_USER_TIMEOUT), whichever direction is cut, and a new one is tried for
    // until there is a way again. The library's own heartbeats would do the same, but it aborts the process when it has
    // one to answer or to send on a connection that has broken while what came before waits to be taken (4.3.4,
    // `!_io_error`); and it searches all connections' timers whenever one of thousands says something.
    try set(ZMQ_TCP_MAXRT, 5_000)
    try set(ZMQ_TCP_KEEPALIVE, 1)
    try set(ZMQ_TCP_KEEPALIVE_IDLE, 60)
    try set(ZMQ_TCP_KEEPALIVE_INTVL, 10)
    try set(ZMQ_TCP_KEEPALIVE_CNT, 6)
    switch kind {
    case .router:
      try set(ZMQ_ROUTER_MANDATORY, 1)
      // Thousands of workers come back at once when the coordinator is started again.
      try set(ZMQ_BACKLOG, 4_096)
    case .dealer:
      // Queue for peers that are connected only: a message never waits for a process that may never come.
      try set(ZMQ_IMMEDIATE, 1)
      try set(ZMQ_RECONNECT_IVL, 50)
      try set(ZMQ_RECONNECT_IVL_MAX, limits.reconnectMilliseconds)
    case .pair: break
    }
  }
  deinit {
    zmq_close(handle)
    // The library leaves the file of an ipc address behind.
    if let file = ipcFile, Self.identity(of: file.path) == file.identity { unlink(file.path) }
  }

  /// The file of a bound ipc address, while it is still the one that binding made.
  private struct FileIdentity: Equatable { var device: dev_t, number: ino_t }
  private var ipcFile: (path: String, identity: FileIdentity)?

  private static func identity(of path: String) -> FileIdentity? {
    var status = stat()
    return lstat(path, &status) == 0 ? FileIdentity(device: status.st_dev, number: status.st_ino) : nil
  }

  private func secure(_ endpoint: Endpoint, _ security: Security) throws(TransportError) {
    if endpoint.isIPv6 { try set(ZMQ_IPV6, 1) }
    switch security {
    case .plaintext(let allowed): try endpoint.requirePlaintextIsFine(allowed: allowed)
    case .server(let pair, let domain):
      try set(ZMQ_CURVE_SERVER, 1)
      try set(ZMQ_CURVE_SECRETKEY, pair.secretText)
      try set(ZMQ_ZAP_DOMAIN, domain)
      // Should the authenticator be missing, nobody gets in. A library that does not know the option lets them in
      // then, but their messages carry no user ID, and are refused.
      try? set(ZMQ_ZAP_ENFORCE_DOMAIN, 1)
    case .client(let pair, let server):
      try set(ZMQ_CURVE_SERVERKEY, server.text)
      try set(ZMQ_CURVE_PUBLICKEY, pair.publicKey.text)
      try set(ZMQ_CURVE_SECRETKEY, pair.secretText)
    }
  }

  /// - Returns: the address that peers connect to, with the port that was taken.
  func bind(_ endpoint: Endpoint, _ security: Security) throws(TransportError) -> String {
    checkThread()
    try secure(endpoint, security)
    if endpoint.ipcPathIsServed { throw .addressInUse(address: endpoint.description) }
    guard zmq_bind(handle, endpoint.forBinding) == 0 else {
      switch zmq_errno() {
      case EADDRINUSE: throw .addressInUse(address: endpoint.description)
      case EADDRNOTAVAIL, ENODEV: throw .addressUnavailable(address: endpoint.description)
      case EACCES, EPERM, ENOENT, EROFS: throw .permissionDenied(address: endpoint.description)
      case EINVAL, EPROTONOSUPPORT, ENAMETOOLONG:
        throw .invalidAddress(address: endpoint.description, reason: Self.message(zmq_errno()))
      default: throw Self.failure("zmq_bind to \(endpoint)")
      }
    }
    if case .ipc(let path) = endpoint.kind { ipcFile = Self.identity(of: path).map { (path, $0) } }
    var text = [CChar](repeating: 0, count: 512)
    var size = text.count
    guard zmq_getsockopt(handle, ZMQ_LAST_ENDPOINT, &text, &size) == 0 else {
      throw Self.failure("zmq_getsockopt(ZMQ_LAST_ENDPOINT)")
    }
    return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  func connect(_ endpoint: Endpoint, _ security: Security) throws(TransportError) {
    checkThread()
    try secure(endpoint, security)
    guard zmq_connect(handle, endpoint.description) == 0 else {
      if zmq_errno() == EINVAL {
        throw .invalidAddress(address: endpoint.description, reason: Self.message(EINVAL))
      }
      throw Self.failure("zmq_connect to \(endpoint)")
    }
  }

  /// Connects a router socket; the other end is known here by `name`, which must not begin with 0.
  func connect(_ endpoint: Endpoint, as name: [UInt8], _ security: Security) throws(TransportError) {
    guard zmq_setsockopt(handle, ZMQ_CONNECT_ROUTING_ID, name, name.count) == 0 else {
      throw Self.failure("zmq_setsockopt(ZMQ_CONNECT_ROUTING_ID)")
    }
    try connect(endpoint, security)
  }

  /// The next part, or nil when there is none now.
  func receive() throws(TransportError) -> Message? {
    checkThread()
    let message = Message()
    while zmq_msg_recv(message.pointer, handle, ZMQ_DONTWAIT) < 0 {
      switch zmq_errno() {
      case EAGAIN: return nil
      case EINTR: continue
      default: throw Self.failure("zmq_msg_recv")
      }
    }
    return message
  }

  /// A whole message of at most `limit` parts; what a peer sends beyond is discarded and counted.
  func receiveParts(atMost limit: Int) throws(TransportError) -> (parts: [Message], excess: Int)? {
    guard let first = try receive() else { return nil }
    var parts = [first]
    var excess = 0
    var more = first.hasMore
    // Parts of one message arrive together, so there is a next one.
    while more, let next = try receive() {
      more = next.hasMore
      if parts.count < limit { parts.append(next) } else { excess += 1 }
    }
    return (parts, excess)
  }

  /// Sends one part or, with `more`, a part that others follow. Never blocks.
  func send(_ message: Message, more: Bool = false) -> SendResult {
    checkThread()
    while zmq_msg_send(message.pointer, handle, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) < 0 {
      switch zmq_errno() {
      case EAGAIN: return .wouldBlock
      case EHOSTUNREACH: return .unreachable
      case EINTR: continue
      default: return .failed(Self.failure("zmq_msg_send"))
      }
    }
    return .sent
  }

  /// Waits until a socket or the waker has something, or the time is over; takes the waker's signals.
  /// - Parameter sockets: with whether room to send is awaited, too.
  static func wait(
    for sockets: [(socket: Socket, toSend: Bool)], waker: Waker, timeoutMilliseconds: Int
  ) throws(TransportError) {
    var items = [zmq_pollitem_t(socket: nil, fd: waker.waitDescriptor, events: Int16(ZMQ_POLLIN), revents: 0)]
    for (socket, toSend) in sockets {
      socket.checkThread()
      items.append(
        zmq_pollitem_t(
          socket: socket.handle, fd: 0, events: Int16(ZMQ_POLLIN | (toSend ? ZMQ_POLLOUT : 0)), revents: 0))
    }
    if zmq_poll(&items, Int32(items.count), timeoutMilliseconds) < 0 && zmq_errno() != EINTR {
      throw failure("zmq_poll")
    }
    if items[0].revents != 0 { waker.drain() }
  }

  func checkThread() {
    precondition(pthread_equal(owner, pthread_self()) != 0, "a socket was used by another thread than its own")
  }

  private func set(_ option: Int32, _ value: Int32) throws(TransportError) {
    var value = value
    guard zmq_setsockopt(handle, option, &value, MemoryLayout<Int32>.size) == 0 else {
      throw Self.failure("zmq_setsockopt(\(option))")
    }
  }
  private func set(_ option: Int32, _ text: String) throws(TransportError) {
    guard zmq_setsockopt(handle, option, text, text.utf8.count) == 0 else {
      throw Self.failure("zmq_setsockopt(\(option))")
    }
  }
  private func setWide(_ option: Int32, _ value: Int64) throws(TransportError) {
    var value = value
    guard zmq_setsockopt(handle, option, &value, MemoryLayout<Int64>.size) == 0 else {
      throw Self.failure("zmq_setsockopt(\(option))")
    }
  }

  static func message(_ code: Int32) -> String { zmq_strerror(code).map { String(cString: $0) } ?? "unknown" }
  static func failure(_ operation: String) -> TransportError {
    let code = zmq_errno()
    return .library(operation: operation, code: code, message: message(code))
  }
}
