import Foundation

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// A TCP relay on loopback whose connections can be cut: a network that breaks and comes back.
///
// Safe because the descriptors are reached under the lock only.
final class BreakingProxy: @unchecked Sendable {
  struct Failure: Error {}
  let endpoint: String
  private let listener: Int32
  private let lock = NSLock()
  private var open: [Int32] = []
  private var closed = false

  /// - Parameter target: `tcp://127.0.0.1:PORT`
  init(to target: String) throws {
    guard let port = target.split(separator: ":").last.flatMap({ UInt16($0) }) else { throw Failure() }
    let listener = Self.stream()
    self.listener = listener
    var address = Self.loopback(port: 0)
    var size = socklen_t(MemoryLayout<sockaddr_in>.size)
    let code = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(listener, $0, size) + listen(listener, 16) + getsockname(listener, $0, &size)
      }
    }
    guard code == 0 else { throw Failure() }
    endpoint = "tcp://127.0.0.1:\(UInt16(bigEndian: address.sin_port))"
    Thread { [self] in
      while true {
        let inner = accept(listener, nil, nil)
        guard inner >= 0 else { return }
        let outer = Self.stream()
        var address = Self.loopback(port: port)
        let code = withUnsafeMutablePointer(to: &address) { pointer in
          pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(outer, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
          }
        }
        guard code == 0, !(lock.withLock { closed }) else {
          Foundation.close(inner)
          Foundation.close(outer)
          continue
        }
        lock.withLock { open += [inner, outer] }
        Thread { Self.relay(inner, outer) }.start()
        Thread { Self.relay(outer, inner) }.start()
      }
    }.start()
  }

  /// Cuts every connection; new ones are taken at once.
  func cut() {
    lock.withLock {
      for descriptor in open { shutdown(descriptor, Int32(SHUT_RDWR)) }
      open = []
    }
  }
  func close() {
    lock.withLock { closed = true }
    cut()
    shutdown(listener, Int32(SHUT_RDWR))
  }

  private static func relay(_ from: Int32, _ to: Int32) {
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    while true {
      let count = read(from, &buffer, buffer.count)
      guard count > 0 else { break }
      var sent = 0
      while sent < count {
        let more = buffer.withUnsafeBytes {
          send(to, $0.baseAddress.map { $0 + sent }, count - sent, Int32(MSG_NOSIGNAL))
        }
        guard more > 0 else { break }
        sent += more
      }
      if sent < count { break }
    }
    // Not closed: the number must not be used again while the other direction may still use it.
    shutdown(from, Int32(SHUT_RDWR))
    shutdown(to, Int32(SHUT_RDWR))
  }
  private static func stream() -> Int32 { socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0) }
  private static func loopback(port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return address
  }
}
