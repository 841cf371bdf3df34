import Synchronization

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// The connections of a bound socket, and whose they are.
///
/// The library tells which descriptors it accepted and closed, and its authenticator which keys it let in, but not
/// which descriptor is whose. Each message does: it carries its connection's key and descriptor. So a connection
/// counts against its key from its admission on, first by number and from its first message on by descriptor; one
/// that says nothing for ``silenceSeconds`` is closed, which keeps the count right.
final class OpenConnections: Sendable {
  /// Peers speak as soon as they are connected, and have been given 5 s for the handshake before.
  static let silence = Duration.seconds(10)

  private struct State {
    /// When each was accepted; nil once it has spoken.
    var silentSince: [Int32: ContinuousClock.Instant] = [:]
    var owners: [Int32: String] = [:]
    var counts: [String: Int] = [:]
    /// Admissions whose connection has not spoken yet.
    var pending: [String: [ContinuousClock.Instant]] = [:]
    var port: UInt16?
  }
  private let state = Mutex(State())

  /// - Parameter port: of the bound socket; nil for one that is not TCP, whose connections are not closed here.
  func setPort(_ port: UInt16?) { state.withLock { $0.port = port } }

  // MARK: The authenticator's thread

  func accepted(_ descriptor: Int32, now: ContinuousClock.Instant) {
    state.withLock { $0.silentSince[descriptor] = now }
  }
  func closed(_ descriptor: Int32) {
    state.withLock { state in
      state.silentSince[descriptor] = nil
      if let owner = state.owners.removeValue(forKey: descriptor) { Self.uncount(owner, &state) }
    }
  }
  /// Counts one more connection of a key, if it may have it.
  func admit(_ key: String, atMost limit: Int, now: ContinuousClock.Instant) -> Bool {
    state.withLock { state in
      var waiting = (state.pending[key] ?? []).filter { now - $0 < Self.silence }
      defer { state.pending[key] = waiting.isEmpty ? nil : waiting }
      guard state.counts[key, default: 0] + waiting.count < limit else { return false }
      waiting.append(now)
      return true
    }
  }
  /// Closes connections that never spoke, and admissions that came to nothing.
  func closeSilent(now: ContinuousClock.Instant) {
    state.withLock { state in
      for (descriptor, since) in state.silentSince where now - since >= Self.silence {
        state.silentSince[descriptor] = nil
        Self.hangUp(descriptor, port: state.port)
      }
      for (key, times) in state.pending {
        let left = times.filter { now - $0 < Self.silence }
        if left.count < times.count { state.pending[key] = left.isEmpty ? nil : left }
      }
    }
  }

  // MARK: The socket's thread

  func heard(_ descriptor: Int32, of key: String) {
    state.withLock { state in
      guard state.owners[descriptor] != key else { return }
      state.silentSince[descriptor] = nil
      if let before = state.owners.updateValue(key, forKey: descriptor) { Self.uncount(before, &state) }
      state.counts[key, default: 0] += 1
      if var waiting = state.pending[key] {
        waiting.removeFirst()
        state.pending[key] = waiting.isEmpty ? nil : waiting
      }
    }
  }

  // MARK: Any thread

  func count(of key: String) -> Int { state.withLock { $0.counts[key, default: 0] } }

  /// Hangs up on everybody who is not admitted any more.
  func close(except isAdmitted: (String) -> Bool) {
    let (owners, port) = state.withLock { ($0.owners, $0.port) }
    for (descriptor, owner) in owners where !isAdmitted(owner) { Self.hangUp(descriptor, port: port) }
  }

  private static func uncount(_ key: String, _ state: inout State) {
    let left = state.counts[key, default: 1] - 1
    state.counts[key] = left > 0 ? left : nil
  }

  /// Ends a connection that the library owns; it notices, closes it and tells us.
  ///
  /// The descriptor may have been closed and taken again since we heard of it, so only a connection to our own
  /// port is touched: at worst another of ours, which comes back.
  private static func hangUp(_ descriptor: Int32, port: UInt16?) {
    guard let port, localPort(descriptor) == port else { return }
    shutdown(descriptor, Int32(SHUT_RDWR))
  }

  private static func localPort(_ descriptor: Int32) -> UInt16? {
    var storage = sockaddr_storage()
    var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
    let code = withUnsafeMutablePointer(to: &storage) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
    }
    guard code == 0 else { return nil }
    return withUnsafeBytes(of: storage) { bytes in
      switch Int32(storage.ss_family) {
      case AF_INET: UInt16(bigEndian: bytes.load(as: sockaddr_in.self).sin_port)
      case AF_INET6: UInt16(bigEndian: bytes.load(as: sockaddr_in6.self).sin6_port)
      default: nil
      }
    }
  }
}
