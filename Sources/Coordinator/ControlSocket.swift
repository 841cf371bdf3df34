import ControlPlane
import Wire

/// What the coordinator needs of its network: one thread polls and sends, others may wake it.
protocol ControlSocket {
  /// The bound address.
  var endpoint: String { get }
  /// Makes a running poll return at once; any thread.
  var wake: @Sendable () -> Void { get }
  /// Messages that came, at most so long later.
  func poll(milliseconds: Int) throws -> [SocketMessage]
  func send(_ envelope: Envelope, to connection: Connection) throws -> Delivery
}

struct SocketMessage: Sendable {
  enum Content: Sendable {
    case envelope(Envelope)
    /// Bytes that are no message; what is wrong with them.
    case garbage(String)
  }
  var connection: Connection
  var content: Content
}

enum Delivery: Sendable {
  case queued
  /// Nobody is there.
  case unreachable
  case failed(String)
}
