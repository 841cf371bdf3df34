#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// The system's own sockets, where ZeroMQ's do not tell what is asked.
enum Sockets {
  #if canImport(Glibc)
    static let stream = Int32(SOCK_STREAM.rawValue)
    static let datagram = Int32(SOCK_DGRAM.rawValue)
    /// A peer that has hung up makes an error of `send`, not a signal.
    static let noSignal = Int32(MSG_NOSIGNAL)
  #else
    static let stream = SOCK_STREAM
    static let datagram = SOCK_DGRAM
    static let noSignal: Int32 = 0
  #endif

  enum Found<Value> {
    case unknownHost
    /// The host has addresses, but none gave a value.
    case nothing
    case value(Value)
  }

  /// Calls `body` with a new socket for one address of the host after the other until it returns a value. The socket is
  /// closed afterwards.
  /// - Parameter host: a name or a number; one of IPv6 may stand in brackets.
  static func firstResult<Value>(
    host: String, port: String, type: Int32, _ body: (_ descriptor: Int32, _ address: addrinfo) -> Value?
  ) -> Found<Value> {
    var hints = addrinfo()
    hints.ai_socktype = type
    var list: UnsafeMutablePointer<addrinfo>?
    let name = host.hasPrefix("[") ? String(host.dropFirst().dropLast()) : host
    guard getaddrinfo(name, port, &hints, &list) == 0 else { return .unknownHost }
    defer { freeaddrinfo(list) }
    var next = list
    while let entry = next?.pointee {
      next = entry.ai_next
      let descriptor = socket(entry.ai_family, entry.ai_socktype, entry.ai_protocol)
      guard descriptor >= 0 else { continue }
      defer { close(descriptor) }
      if let value = body(descriptor, entry) { return .value(value) }
    }
    return .nothing
  }
}
