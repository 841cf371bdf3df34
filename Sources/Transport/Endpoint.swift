import Foundation

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A checked ZeroMQ address, and the one rule of who may speak in plain text.
///
/// Plain text is for loopback and ipc. Without keys for CURVE an address outside loopback is refused unless the
/// user accepts the risk in so many words (`allowPlaintext`, on the command line `--insecure-plaintext`).
public struct Endpoint: Hashable, Sendable, CustomStringConvertible {
  public enum Kind: Hashable, Sendable {
    case tcp(host: String, port: String)
    case ipc(path: String)
  }
  public let kind: Kind

  public var description: String {
    switch kind {
    case .tcp(let host, let port): "tcp://\(host):\(port)"
    case .ipc(let path): "ipc://\(path)"
    }
  }

  /// - Throws: ``TransportError/invalidAddress(address:reason:)``
  public init(_ address: String) throws(TransportError) {
    guard address.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
      throw .invalidAddress(address: address, reason: "it has spaces or unprintable characters")
    }
    if address.hasPrefix("ipc://") {
      let path = String(address.dropFirst(6))
      // sockaddr_un has room for 107 characters.
      guard path.hasPrefix("/"), path.utf8.count > 1 else {
        throw .invalidAddress(address: address, reason: "an ipc path must be absolute")
      }
      guard path.utf8.count <= 107 else {
        throw .invalidAddress(address: address, reason: "an ipc path may have 107 characters")
      }
      kind = .ipc(path: path)
      return
    }
    guard address.hasPrefix("tcp://") else {
      throw .invalidAddress(address: address, reason: "it begins with neither tcp:// nor ipc://")
    }
    let rest = address.dropFirst(6)
    guard let colon = rest.lastIndex(of: ":") else {
      throw .invalidAddress(address: address, reason: "it has no port")
    }
    let host = String(rest[..<colon])
    let port = String(rest[rest.index(after: colon)...])
    guard !host.isEmpty, !host.contains("/"), !host.contains(";") else {
      throw .invalidAddress(address: address, reason: "it has no host")
    }
    guard port == "*" || UInt16(port) != nil else {
      throw .invalidAddress(address: address, reason: "the port is a number up to 65535")
    }
    kind = .tcp(host: host, port: port)
  }

  /// Whether nothing sent here leaves the host.
  public var staysOnHost: Bool {
    switch kind {
    case .ipc: return true
    case .tcp(let host, _):
      if host == "localhost" || host == "[::1]" { return true }
      let parts = host.split(separator: ".", omittingEmptySubsequences: false)
      return parts.count == 4 && parts.allSatisfy { UInt8($0) != nil } && parts[0] == "127"
    }
  }

  /// Refuses plain text outside the host unless it was asked for.
  public func requirePlaintextIsFine(allowed: Bool) throws(TransportError) {
    guard staysOnHost || allowed else { throw .plaintextRefused(address: description) }
  }

  /// The form that zmq_bind takes: it knows interfaces and numbers, but not the name localhost.
  var forBinding: String {
    if case .tcp("localhost", let port) = kind { return "tcp://127.0.0.1:\(port)" }
    return description
  }
  /// The port of a bound TCP address.
  static func port(of address: String) -> UInt16? {
    guard address.hasPrefix("tcp://"), let colon = address.lastIndex(of: ":") else { return nil }
    return UInt16(address[address.index(after: colon)...])
  }
  var isIPv6: Bool {
    if case .tcp(let host, _) = kind { return host.hasPrefix("[") }
    return false
  }

  /// An address to bind where peers of `address` can reach this host: loopback for loopback, ipc for ipc,
  /// otherwise a free port on the interface that routes to it.
  /// - Throws: ``TransportError/invalidAddress(address:reason:)`` or
  ///   ``TransportError/addressUnavailable(address:)`` when no route leads there.
  public static func binding(toward address: String) throws(TransportError) -> String {
    let endpoint = try Endpoint(address)
    switch endpoint.kind {
    case .ipc:
      return "ipc://\(FileManager.default.temporaryDirectory.path)/transfusion-\(UUID().uuidString)"
    case .tcp(let host, let port):
      if endpoint.staysOnHost { return endpoint.isIPv6 ? "tcp://[::1]:*" : "tcp://127.0.0.1:*" }
      return "tcp://\(try localAddress(toward: host, port: port, address: address)):*"
    }
  }

  /// Connecting a datagram socket sends nothing, but makes the kernel choose the local address.
  private static func localAddress(toward host: String, port: String, address: String) throws(TransportError) -> String
  {
    let found = Sockets.firstResult(host: host, port: port == "*" ? "1" : port, type: Sockets.datagram) {
      descriptor, entry -> String? in
      guard connect(descriptor, entry.ai_addr, entry.ai_addrlen) == 0 else { return nil }
      var storage = sockaddr_storage()
      var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
      var text = [CChar](repeating: 0, count: 256)
      let code = withUnsafeMutablePointer(to: &storage) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { socketAddress in
          getsockname(descriptor, socketAddress, &length) == 0
            ? getnameinfo(socketAddress, length, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST) : -1
        }
      }
      guard code == 0 else { return nil }
      let number = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      return number.contains(":") ? "[\(number)]" : number
    }
    switch found {
    case .unknownHost: throw .invalidAddress(address: address, reason: "the host name \(host) is not known")
    case .nothing: throw .addressUnavailable(address: address)
    case .value(let local): return local
    }
  }

  /// Whether a living process listens on the ipc path: zmq_bind would take it over without a word.
  var ipcPathIsServed: Bool {
    guard case .ipc(let path) = kind else { return false }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let fits = withUnsafeMutableBytes(of: &address.sun_path) { room in
      guard path.utf8.count < room.count else { return false }
      room.copyBytes(from: path.utf8)
      return true
    }
    guard fits else { return false }
    let descriptor = socket(AF_UNIX, Sockets.stream, 0)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
      }
    }
  }
}
