import ControlPlane
import Keys
import Logging
import Transport

/// Whom a run's coordinator lets in: the keys on its list, and its own, with which the workers that it starts itself
/// and its operator come.
struct KeyAdmission {
  /// The list is looked at once a second.
  static let lookTicks = 10

  let serverKeys: ServerKeys
  private let connectionsPerKey: Int
  private let list: String
  private var watch: KeyListWatch

  /// - Throws: ``KeyFileError`` when the list cannot be used: better not to begin than to let in the wrong ones.
  init(_ pair: KeyPair, list path: String, settings: CoordinatorSettings, log: Logger) throws(KeyFileError) {
    connectionsPerKey = settings.connectionsPerKey
    list = path
    watch = KeyListWatch(path)
    serverKeys = ServerKeys(pair, admitted: AdmittedKeys()) { log.warning("\($0)") }
    switch watch.look() {
    case .unusable(let error): throw error
    case .changed(let list): apply(list)
    case .unchanged: apply(AuthorizedKeys())
    }
  }

  /// Looks at the list, and has it obeyed when it has changed.
  mutating func look() -> KeyListWatch.Finding {
    let finding = watch.look()
    if case .changed(let list) = finding { apply(list) }
    return finding
  }

  func mayWork(_ key: PublicKey?) -> Bool {
    key.flatMap { serverKeys.admitted.admission(of: $0) }?.role == .worker
  }

  /// Strikes a worker's key off the list, for good. The coordinator's own stays: other workers come with it as well.
  /// - Returns: the entry that is gone, nil when there was none.
  func revoke(_ key: PublicKey) throws(KeyFileError) -> AuthorizedKeys.Entry? {
    guard key != serverKeys.pair.publicKey else { return nil }
    do throws(KeyFileError) { return try AuthorizedKeys.revoke(key.text, in: list) } catch {
      if case .unknown = error { return nil }
      throw error
    }
  }

  private func apply(_ list: AuthorizedKeys) {
    var admissions: [PublicKey: AdmittedKeys.Admission] = [:]
    for entry in list.entries {
      admissions[entry.key] = .init(role: entry.role, connections: connectionsPerKey)
    }
    admissions[serverKeys.pair.publicKey] = .init(role: .worker, connections: max(1_024, connectionsPerKey))
    serverKeys.admitted.admit(only: admissions)
  }
}

extension CoordinatorLoop {
  /// A revoked worker is out within a second: nothing that it says is heard, its connection ends, and the run goes on
  /// without it.
  func lookAtKeys() {
    guard var admission else { return }
    let finding = admission.look()
    self.admission = admission
    switch finding {
    case .unchanged: return
    case .unusable(let error):
      log.error("the list of authorised keys is not used as it is, the one before stays in force: \(error)")
    case .changed(let list):
      log.notice("authorised keys: \(list.entries.count)")
      let out = peers.all.filter { !admission.mayWork($0.peer.key) }.map(\.connection).sorted { $0.name < $1.name }
      for connection in out {
        let who = machine.state.membership.worker(at: connection).map { "\($0)" } ?? "\(connection)"
        log.warning("the key of \(who) is revoked")
        feed(.connectionRefused(connection))
        peers[connection] = nil
      }
      server.hangUpOnStrangers()
    }
  }

  /// The machine that this key stands for shall not come back.
  func revoke(_ bytes: [UInt8]) {
    guard let admission, let key = PublicKey(bytes: bytes) else { return }
    do throws(KeyFileError) {
      guard let entry = try admission.revoke(key) else { return }
      log.warning(
        "the key \(entry.name) is revoked: its machine computes wrongly; authorize it again once that is repaired")
    } catch {
      log.error("the key \(key) of a machine that computes wrongly could not be revoked, revoke it by hand: \(error)")
    }
  }
}
