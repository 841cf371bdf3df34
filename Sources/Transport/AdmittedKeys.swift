import Synchronization

/// Whom a bound socket lets in. Shared between whoever changes it, the authenticator and the socket's thread.
public final class AdmittedKeys: Sendable {
  public enum Role: String, Hashable, Sendable, CaseIterable {
    /// May join the run, and ask for its status.
    case worker
    /// May ask for the status of the run, and nothing else.
    case observer
  }
  public struct Admission: Hashable, Sendable {
    public var role: Role
    /// Connections that it may have at one time.
    public var connections: Int
    public init(role: Role, connections: Int) {
      self.role = role
      self.connections = connections
    }
  }
  private typealias Entry = (key: PublicKey, admission: Admission)
  private let admissions: Mutex<[String: Entry]>

  public init(_ admissions: [PublicKey: Admission] = [:]) {
    self.admissions = Mutex(Self.byText(admissions))
  }

  /// From the next message on nobody else is heard.
  public func admit(only admissions: [PublicKey: Admission]) {
    let next = Self.byText(admissions)
    self.admissions.withLock { $0 = next }
  }
  public func admission(of key: PublicKey) -> Admission? { find(key.text)?.admission }

  /// - Parameter text: what a connection was authenticated as; a text that is no key is not admitted.
  func find(_ text: String) -> (key: PublicKey, admission: Admission)? { admissions.withLock { $0[text] } }

  private static func byText(_ admissions: [PublicKey: Admission]) -> [String: Entry] {
    Dictionary(uniqueKeysWithValues: admissions.map { ($0.key.text, (key: $0.key, admission: $0.value)) })
  }
}

/// What a bound socket needs for CURVE.
public struct ServerKeys: Sendable {
  public var pair: KeyPair
  public var admitted: AdmittedKeys
  /// Gets who was turned away and why, a few times a second at most; any thread.
  public var note: @Sendable (String) -> Void
  public init(
    _ pair: KeyPair, admitted: AdmittedKeys, note: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    self.pair = pair
    self.admitted = admitted
    self.note = note
  }
}

/// What a connecting socket needs for CURVE: who we are, and who must be at the other end.
public struct ClientKeys: Sendable {
  public var pair: KeyPair
  public var server: PublicKey
  public init(_ pair: KeyPair, server: PublicKey) {
    self.pair = pair
    self.server = server
  }
}
