/// Why a socket could not be had or a message not be sent.
public enum TransportError: Error, Hashable, Sendable, CustomStringConvertible {
  case invalidAddress(address: String, reason: String)
  case addressInUse(address: String)
  /// The host has no such address.
  case addressUnavailable(address: String)
  case permissionDenied(address: String)
  /// Plain text outside loopback and ipc, not asked for explicitly.
  case plaintextRefused(address: String)
  /// The coordinator does not know our key, or not any more.
  case notAuthorised(address: String)
  /// One end encrypts and the other does not.
  case encryptionDiffers(address: String, weEncrypt: Bool)
  /// What listens there does not speak our protocol.
  case foreignServer(address: String)
  /// A peer without a key where all have one.
  case keyMissing(address: String)
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
        + "make a key with `transfusion keys generate` and give it with --key (see docs/security.md), use "
        + "tcp://127.0.0.1:PORT or ipc:///PATH, or accept the risk on a network you trust with --insecure-plaintext"
    case .notAuthorised(let address):
      "the coordinator at \(address) does not admit this key; on its host run `transfusion keys authorize RUN KEY.pub`, "
        + "or ask why it was revoked"
    case .encryptionDiffers(let address, let weEncrypt):
      weEncrypt
        ? "the coordinator at \(address) does not encrypt, and this key was given to be used: start the coordinator "
          + "with --key, or leave out --key and --coordinator-key here"
        : "the coordinator at \(address) encrypts: give this process its key with --key, and the coordinator's with "
          + "--coordinator-key (see docs/security.md)"
    case .foreignServer(let address):
      "what listens at \(address) is no coordinator of this version, or has another key than --coordinator-key says"
    case .keyMissing(let address):
      "the coordinator named no key for the worker at \(address): all workers of a run with keys have one"
    case .peerUnreachable: "the peer is not connected; it must connect (again) before it can be sent anything"
    case .congested(let queued): "the peer has not taken \(queued) messages; check that it is alive and connected"
    case .messageTooLarge(let size, let limit): "a message of \(size) bytes is over the limit of \(limit)"
    case .library(let operation, let code, let message): "\(operation) failed with code \(code): \(message)"
    }
  }
}
