/// Why a socket could not be had or a message not be sent.
public enum TransportError: Error, Hashable, Sendable, CustomStringConvertible {
  case invalidAddress(address: String, reason: String)
  case addressInUse(address: String)
  /// The host has no such address.
  case addressUnavailable(address: String)
  case permissionDenied(address: String)
  /// Plain text outside loopback and ipc, not asked for explicitly.
  case plaintextRefused(address: String)
  /// The peer has gone, or never came.
  case peerUnreachable
  /// The peer does not take its messages.
  case congested(queuedMessages: Int)
  case messageTooLarge(sizeBytes: Int, limitBytes: Int)
  case library(operation: String, code: Int32, message: String)

  public var description: String {
    switch self {
    case .invalidAddress(let address, let reason):
      "\(address) is not an address to use (\(reason)); write tcp://HOST:PORT (PORT may be * to bind) or ipc:///PATH"
    case .addressInUse(let address):
      "\(address) is in use by another process; stop it, or choose another address with --listen (port * takes a free one)"
    case .addressUnavailable(let address):
      "\(address) is not an address of this host; listen on one that it has, or on tcp://127.0.0.1:PORT"
    case .permissionDenied(let address):
      "not permitted to use \(address); choose a port above 1023 or a directory that you may write to"
    case .plaintextRefused(let address):
      "\(address) is outside loopback and ipc, where messages would travel in plain text and anyone could send them; "
        + "encryption (CURVE) is not built in yet: use tcp://127.0.0.1:PORT or ipc:///PATH, tunnel it over SSH or a VPN, "
        + "or accept the risk on a network you trust with --insecure-plaintext"
    case .peerUnreachable: "the peer is not connected; it must connect (again) before it can be sent anything"
    case .congested(let queued): "the peer has not taken \(queued) messages; check that it is alive and connected"
    case .messageTooLarge(let size, let limit): "a message of \(size) bytes is over the limit of \(limit)"
    case .library(let operation, let code, let message): "\(operation) failed with code \(code): \(message)"
    }
  }
}
