import Foundation

/// A listening TCP socket on a free loopback port.
final class Listener {
  let descriptor: Int32
  let port: UInt16

  struct Failure: Error { var code: Int32 }

  init() throws {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    self.descriptor = descriptor
    var address = Garbage.loopback(port: 0)
    let bound = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard bound == 0, listen(descriptor, 1) == 0 else { throw Failure(code: errno) }
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = getsockname(descriptor, $0, &length) }
    }
    port = UInt16(bigEndian: address.sin_port)
  }
  /// Explicit: optimised code may end a value's life at its last mention.
  func stop() { close(descriptor) }
}

enum Sockets {
  /// A port that was free a moment ago: for what must be at the same address twice.
  static func freePort() throws -> UInt16 {
    let listener = try Listener()
    defer { listener.stop() }
    return listener.port
  }
}

/// Bytes that no peer of ours would send, over a plain TCP connection.
enum Garbage {
  static func loopback(port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    return address
  }

  /// Not ZeroMQ at all; a ZeroMQ greeting cut off; a whole NULL handshake followed by frames of nonsense.
  static let payloads: [[UInt8]] = {
    let greeting: [UInt8] =
      [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, 3, 0] + Array("NULL".utf8) + [UInt8](repeating: 0, count: 16 + 32)
    let ready: [UInt8] =
      [4, 41, 5] + Array("READY".utf8) + [11] + Array("Socket-Type".utf8) + [0, 0, 0, 6] + Array("DEALER".utf8)
      + [8] + Array("Identity".utf8) + [0, 0, 0, 0]
    var properReady = ready
    properReady[1] = UInt8(ready.count - 2)
    let noise = (0..<200).map { UInt8(truncatingIfNeeded: $0 &* 167 &+ 13) }
    return [
      Array("GET / HTTP/1.1\r\nHost: x\r\n\r\n".utf8),
      [UInt8](repeating: 0xFF, count: 5000),
      Array(greeting.prefix(20)),
      greeting + properReady + [0, 200] + noise + [1, 3, 1, 2, 3, 0, 0] + [2] + [0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
    ]
  }()

  static func send(_ bytes: [UInt8], port: UInt16) {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = loopback(port: port)
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    guard connected == 0 else { return }
    _ = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
    usleep(50_000)
  }
}
