import CZeroMQ

/// Connections inside the process: to the authenticator, and from the library's reports on a socket.
extension Socket {
  /// - Parameter address: `inproc://...`, unique in the context.
  func bindInside(_ address: String) throws(TransportError) {
    checkThread()
    guard zmq_bind(handle, address) == 0 else { throw Self.failure("zmq_bind to \(address)") }
  }
  func connectInside(_ address: String) throws(TransportError) {
    checkThread()
    guard zmq_connect(handle, address) == 0 else { throw Self.failure("zmq_connect to \(address)") }
  }

  /// Has the library report what happens to this socket's connections to a pair socket that connects to `address`.
  ///
  /// Whoever starts it has the reports taken until ``stopMonitor()``: the library waits when they pile up.
  func startMonitor(_ address: String, events: Int32) throws(TransportError) {
    checkThread()
    guard zmq_socket_monitor(handle, address, events) == 0 else { throw Self.failure("zmq_socket_monitor") }
  }
  func stopMonitor() { zmq_socket_monitor(handle, nil, 0) }

  struct MonitorEvent {
    /// One of `ZMQ_EVENT_`...
    var kind: Int32
    /// A descriptor, an errno or a code, by the kind.
    var value: Int32
  }

  /// The next report of a watched socket, or nil when there is none now.
  func receiveMonitorEvent() throws(TransportError) -> MonitorEvent? {
    while let (parts, _) = try receiveParts(atMost: 2) {
      let event: MonitorEvent? = parts[0].withBytes { bytes in
        guard bytes.count == 6 else { return nil }
        return MonitorEvent(
          kind: Int32(bytes.loadUnaligned(as: UInt16.self)),
          value: Int32(bitPattern: bytes.loadUnaligned(fromByteOffset: 2, as: UInt32.self)))
      }
      if let event { return event }
    }
    return nil
  }
}
