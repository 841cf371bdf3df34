import ClusterModel
import Wire

/// Where a message came from, as the transport knows it: a name that a peer cannot choose for another.
public struct Connection: Hashable, Sendable, CustomStringConvertible {
  public let name: String
  /// The CURVE key that its owner proved to hold, 32 bytes; empty where traffic is plain.
  public let publicKey: [UInt8]
  /// The name is a connection's own; the key need not be looked at to tell two apart mostly.
  public func hash(into hasher: inout Hasher) { hasher.combine(name) }
  public init(_ name: String, publicKey: [UInt8] = []) {
    self.name = name
    self.publicKey = publicKey
  }
  public var description: String { name }
}

/// What happens to a coordinator. The shell reports it, in the order in which it happened.
public enum CoordinatorEvent: Hashable, Sendable {
  case message(Envelope, from: Connection)
  /// One tick of the shell's clock. A shell that was itself held up reports one tick, not all it missed:
  /// its own silence counts against nobody.
  case tick
  /// A message could not be delivered: nobody is at the other end.
  case connectionRefused(Connection)
  /// Drain: finish the step, checkpoint, stop the workers. Asked twice, stop at once.
  case stopRequested(reason: String)
  /// The record of ``CoordinatorDirective/commitStep(_:)`` is on disk.
  case stepJournaled(Step)
  /// The recomputed step differs from the one that the journal has.
  case stepNotReproduced(Step, reason: String)
  /// The journal cannot be written: nothing may be committed any more.
  case journalFailed(reason: String)
  /// The journal knows a newer generation than this coordinator's: another one has taken over.
  case superseded(reason: String)
  /// The manifest of the state after so many steps is in place.
  case checkpointCommitted(Step)
  case checkpointCommitFailed(Step, reason: String)
}
