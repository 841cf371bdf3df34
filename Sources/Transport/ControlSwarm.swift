import Wire

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Thousands of workers' ends of the control plane in one thread: one socket with a TCP connection for each of them, so
/// that the coordinator sees as many peers. What measures a coordinator uses it; a worker has a ``ControlClient``.
///
/// Confined to the thread that made it, which is checked.
package final class ControlSwarm {
  package static let messagesPerPoll = 1_024

  private let address: Endpoint
  private let socket: Socket
  private let waker: Waker
  /// Orders are the same bytes for all: decoded once.
  private var decoded: [(bytes: [UInt8], envelope: Envelope)] = []

  /// - Parameter address: the coordinator's, on loopback.
  package init(address: String) throws(TransportError) {
    self.address = try Endpoint(address)
    waker = try Waker()
    socket = try Socket(.router, in: ZeroMQContext(), limits: .control)
  }

  /// Makes the connection of worker `number`; what is sent before it is there waits.
  package func connect(_ number: UInt32) throws(TransportError) {
    try socket.connect(address, as: Self.name(number), .plaintext(allowedOutsideHost: false))
  }

  /// Queues a message of worker `number`; never blocks.
  package func send(_ envelope: Envelope, from number: UInt32) throws(TransportError) {
    try send(envelope.encoded(), from: number)
  }
  /// The same with an envelope that is encoded already.
  package func send(_ bytes: [UInt8], from number: UInt32) throws(TransportError) {
    try socket.queue(Message(copying: Self.name(number)), more: true)
    try socket.queue(Message(copying: bytes), more: false)
  }

  /// Waits for messages at most so long; each with the number of the worker that it is for.
  package func poll(timeoutMilliseconds: Int) throws(TransportError) -> [(number: UInt32, envelope: Envelope)] {
    try Socket.wait(for: [(socket, false)], waker: waker, timeoutMilliseconds: timeoutMilliseconds)
    var found: [(number: UInt32, envelope: Envelope)] = []
    while found.count < Self.messagesPerPoll, let (parts, _) = try socket.receiveParts(atMost: 1 + Message.mostParts) {
      guard let number = Self.number(parts[0].bytes), let envelope = decode(parts.dropFirst()) else { continue }
      found.append((number, envelope))
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
