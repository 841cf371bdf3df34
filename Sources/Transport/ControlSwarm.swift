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
  /// What the workers of a host have said and is not sent yet, by the host's number.
  private var bundles: [UInt32: HeldBundle] = [:]
  /// Hosts to look at in ``flush()``: those of the first list may have to be sent at once, those of the second later, in
  /// order.
  private var urgent: [UInt32] = []
  private var patient: [(due: ContinuousClock.Instant, host: UInt32)] = []
  private let clock = ContinuousClock()
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

  /// Queues a message of worker `number` until ``flush()``, or longer when it can wait, as a relay does; never blocks.
  package func send(_ envelope: Envelope, from number: UInt32) throws(TransportError) {
    let bytes = envelope.encoded()
    let canWait = envelope.message.canWait
    let host = number / workersPerHost
    guard workersPerHost > 1 else { return try send(bytes, over: host) }
    if bundles[host]?.builder.isFull(forBytes: bytes.count) == true { try flush(host) }
    let before = bundles[host]?.deadline
    bundles[host, default: HeldBundle()].append(bytes, from: number % workersPerHost, canWait: canWait, at: clock.now)
    if !canWait {
      urgent.append(host)
    } else if let due = bundles[host]?.deadline, before == nil {
      patient.append((due, host))
    }
  }

  /// Sends what does not wait, and what has waited.
  package func flush() throws(TransportError) {
    for host in urgent { try flush(host) }
    urgent.removeAll(keepingCapacity: true)
    let now = clock.now
    let due = patient.prefix { $0.due <= now }
    patient.removeFirst(due.count)
    for (_, host) in due where bundles[host]?.isDue(at: now) == true { try flush(host) }
  }

  private func flush(_ host: UInt32) throws(TransportError) {
    if let bundle = bundles.removeValue(forKey: host) { try send(bundle.builder.bytes, over: host) }
  }
  private func send(_ bytes: [UInt8], over host: UInt32) throws(TransportError) {
    try socket.queue(Message(copying: Self.name(host)), more: true)
    try socket.queue(Message(copying: bytes), more: false)
  }

  /// What the workers of a host say at one time, as its connection carries it.
  package func together(_ envelopes: [(number: UInt32, envelope: Envelope)]) -> [UInt8] {
    if workersPerHost == 1, envelopes.count == 1 { return envelopes[0].envelope.encoded() }
    var bundle = Bundle.Builder()
    for (number, envelope) in envelopes { bundle.append(envelope.encoded(), from: number % workersPerHost) }
    return bundle.bytes
  }
  /// Sends that at once, over the connection of worker `number`.
  package func send(together bytes: [UInt8], of number: UInt32) throws(TransportError) {
    try send(bytes, over: number / workersPerHost)
  }

  /// Waits for messages at most so long; each with the numbers of the workers that it is for, all of one host.
  package func poll(timeoutMilliseconds: Int) throws(TransportError) -> [(numbers: [UInt32], envelope: Envelope)] {
    try Socket.wait(for: [(socket, false)], waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    var found: [(numbers: [UInt32], envelope: Envelope)] = []
    var taken = 0
    while taken < Self.messagesPerPoll, let (parts, _) = try socket.receiveParts(atMost: 2 + Message.mostParts) {
      taken += 1
      guard let host = Self.number(parts[0].bytes) else { continue }
      if workersPerHost == 1 {
        if let envelope = decode(parts.dropFirst()) { found.append(([host], envelope)) }
      } else if parts.count > 1, let list = try? SeatList(reading: parts[1].bytes),
        let envelope = decode(parts.dropFirst(2))
      {
        found.append((list.seats.map { host * workersPerHost + $0 }, envelope))
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
