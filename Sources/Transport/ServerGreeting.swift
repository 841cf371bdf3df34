#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Asks what listens somewhere whether it encrypts, without ZeroMQ.
///
/// Two ends that differ in that hang up on each other; the one that is quicker knows why, the other sees a connection
/// that ends. Who sends only how a greeting begins (ZMTP 3.1, RFC 37) is told the rest of the other's: its mechanism.
enum ServerGreeting {
  private static let signature: [UInt8] = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F]
  private static let majorVersion: UInt8 = 3
  private static let sizeBytes = 64
  /// Where its name stands, padded with zeros.
  private static let mechanism = 12..<32

  /// The mechanism that the server names, `NULL` or `CURVE`; nil when nothing answers so, in so many milliseconds a
  /// connection and a read, for each address of the host.
  static func mechanism(at endpoint: Endpoint, milliseconds: Int = 500) -> String? {
    guard case .tcp(let host, let port) = endpoint.kind else { return nil }
    let found = Sockets.firstResult(host: host, port: port, type: Sockets.stream) { descriptor, entry -> String? in
      var patience = timeval(tv_sec: milliseconds / 1_000, tv_usec: milliseconds % 1_000 * 1_000)
      for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
        setsockopt(descriptor, SOL_SOCKET, option, &patience, socklen_t(MemoryLayout<timeval>.size))
      }
      guard connect(descriptor, entry.ai_addr, entry.ai_addrlen) == 0 else { return nil }
      return mechanism(over: descriptor)
    }
    guard case .value(let mechanism) = found else { return nil }
    return mechanism
  }

  private static func mechanism(over descriptor: Int32) -> String? {
    let opening = signature + [majorVersion]
    guard send(descriptor, opening, opening.count, Sockets.noSignal) == opening.count else { return nil }
    var greeting = [UInt8](repeating: 0, count: sizeBytes)
    var received = 0
    while received < sizeBytes {
      let count = greeting.withUnsafeMutableBytes { bytes in
        // Safe because the rest of the buffer begins at `received`, which is below its size.
        recv(descriptor, bytes.baseAddress?.advanced(by: received), sizeBytes - received, 0)
      }
      guard count > 0 else { return nil }
      received += count
    }
    guard greeting[0] == signature[0], greeting[9] == signature[9], greeting[10] >= majorVersion else { return nil }
    return String(decoding: greeting[mechanism].prefix { $0 != 0 }, as: UTF8.self)
  }
}
