import Wire

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Thousands of workers' ends of the control plane in one thread: one socket with a TCP connection for each of them, or
/// for each host of several as behind a ``ControlRelay``, so that the coordinator sees as many peers. What measures a
/// coordinator uses it; a worker has a ``ControlClient``.
///
/// Confined to the thread that made it, which is checked.
package final class ControlSwarm {
  package static let messagesPerPoll = 1_024

  private let address: Endpoint
  private let socket: Socket
  private let waker: Waker
  private let workersPerHost: UInt32
  /// What the workers of a host have said since ``flush()``, by the host's number.
  private var bundles: [UInt32: Bundle.Builder] = [:]
  /// Orders are the same bytes for all: decoded once.
  private var decoded: [(bytes: [UInt8], envelope: Envelope)] = []

  /// - Parameters:
  ///   - address: the coordinator's, on loopback.
  ///   - workersPerHost: how many share a connection; 1 for a connection of its own for each.
  package init(address: String, workersPerHost: Int) throws(TransportError) {
    self.address = try Endpoint(address)
    self.workersPerHost = UInt32(workersPerHost)
    waker = try Waker()
    socket = try Socket(.router, in: ZeroMQContext(), limits: .control)
  }

  /// Makes the connection of worker `number`, if it is the first of its host; what is sent before it is there waits.
  package func connect(_ number: UInt32) throws(TransportError) {
    guard number.isMultiple(of: workersPerHost) else { return }
    let name = Self.name(number / workersPerHost)
    try socket.connect(address, as: name, .plaintext(allowedOutsideHost: false))
  }

  /// Queues a message of worker `number`, at the latest until ``flush()``; never blocks.
  package func send(_ envelope: Envelope, from number: UInt32) throws(TransportError) {
    try send(envelope.encoded(), from: number)
  }
  /// The same with an envelope that is encoded already.
  package func send(_ bytes: [UInt8], from number: UInt32) throws(TransportError) {
    let host = number / workersPerHost
    guard workersPerHost > 1 else { return try send(bytes, over: host) }
    if bundles[host]?.isFull(forBytes: bytes.count) == true { try flush(host) }
    bundles[host, default: Bundle.Builder()].append(bytes, from: number % workersPerHost)
  }

  /// Sends what was said since the last time.
  package func flush() throws(TransportError) { for host in Array(bundles.keys) { try flush(host) } }

  private func flush(_ host: UInt32) throws(TransportError) {
    if let bundle = bundles.removeValue(forKey: host) { try send(bundle.bytes, over: host) }
  }
  private func send(_ bytes: [UInt8], over host: UInt32) throws(TransportError) {
    try socket.queue(Message(copying: Self.name(host)), more: true)
    try socket.queue(Message(copying: bytes), more: false)
  }

  /// Waits for messages at most so long; each with the number of the worker that it is for.
  package func poll(timeoutMilliseconds: Int) throws(TransportError) -> [(number: UInt32, envelope: Envelope)] {
    try Socket.wait(for: [(socket, false)], waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    var found: [(number: UInt32, envelope: Envelope)] = []
    var taken = 0
    while taken < Self.messagesPerPoll, let (parts, _) = try socket.receiveParts(atMost: 2 + Message.mostParts) {
      taken += 1
      guard let host = Self.number(parts[0].bytes) else { continue }
      if workersPerHost == 1 {
        if let envelope = decode(parts.dropFirst()) { found.append((host, envelope)) }
      } else if parts.count > 1, let list = try? SeatList(reading: parts[1].bytes),
        let envelope = decode(parts.dropFirst(2))
      {
        found += list.seats.map { (host * workersPerHost + $0, envelope) }
      }
    }
    return found
  }

  private func decode(_ parts: ArraySlice<Message>) -> Envelope? {
    if let known = decoded.firstIndex(where: { $0.bytes.elementsEqual(parts) }) { return decoded[known].envelope }
    let bytes = parts.flatMap(\.bytes)
    guard let envelope = try? Envelope(decoding: bytes) else { return nil }
    // Those of single workers would drive out what all get.
    if case .welcome = envelope.message { return envelope }
    if decoded.count == 6 { decoded.removeFirst() }
    decoded.append((bytes, envelope))
    return envelope
  }

  private static func name(_ number: UInt32) -> [UInt8] {
    [1] + (0..<4).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) }
  }
  private static func number(_ name: [UInt8]) -> UInt32? {
    guard name.count == 5 else { return nil }
    return name.dropFirst().reversed().reduce(0) { $0 << 8 | UInt32($1) }
  }
}

extension [UInt8] {
  fileprivate func elementsEqual(_ parts: ArraySlice<Message>) -> Bool {
    guard count == parts.reduce(0, { $0 + $1.count }) else { return false }
    return withUnsafeBytes { mine in
      var offset = 0
      return parts.allSatisfy { part in
        part.withBytes { other in
          defer { offset += other.count }
          // Safe because the parts together have as many bytes as this, which is checked first.
          guard let mine = mine.baseAddress, let other = other.baseAddress, part.count > 0 else { return true }
          return memcmp(mine + offset, other, part.count) == 0
        }
      }
    }
  }
}
