import ClusterModel
import Foundation
import Transport
import Wire

/// Asks for a run's status: a live coordinator where there is one, else the journal.
public enum StatusQuery {
  /// Asks the coordinator at an address; nil when it does not answer in time.
  /// - Throws: `TransportError` for an address that is none, or when the coordinator does not let us in.
  public static func ask(
    _ address: String, timeoutSeconds: Double, keys: ClientKeys? = nil, allowPlaintext: Bool
  ) throws -> StatusReport? {
    let client = try ControlClient(address: address, keys: keys, allowPlaintext: allowPlaintext)
    try client.send(
      Envelope(run: RunID(""), generation: Generation(0), sender: .observer, message: .statusRequest))
    let clock = ContinuousClock()
    let deadline = clock.now + .seconds(timeoutSeconds)
    while true {
      let left = (deadline - clock.now) / .milliseconds(1)
      guard left > 0 else { return nil }
      for envelope in try client.poll(timeoutMilliseconds: Int(left) + 1) {
        guard envelope.sender == .coordinator, case .status(let json) = envelope.message else { continue }
        return try StatusReport(json: json)
      }
      if let refusal = client.refusal { throw refusal }
    }
  }

  /// The status of a run directory.
  /// - Parameter keys: what to use with a coordinator that has this public key; nil reads the journal instead.
  /// - Throws: ``CoordinatorError/notARun(path:)``, or what asking or reading the journal throws.
  public static func ask(
    _ directory: RunDirectory, timeoutSeconds: Double, allowPlaintext: Bool,
    keys: (_ address: String, _ server: PublicKey) throws -> ClientKeys? = { _, _ in nil }
  ) throws -> StatusReport {
    if let live = directory.liveCoordinator() {
      let server = live.publicKey.flatMap { PublicKey($0) }
      let keys = try server.flatMap { try keys(live.address, $0) }
      if server == nil || keys != nil,
        let report = try ask(
          live.address, timeoutSeconds: timeoutSeconds, keys: keys, allowPlaintext: allowPlaintext),
        report.run == live.run
      {
        return report
      }
    }
    return try StatusReport.offline(directory, now: Date().timeIntervalSince1970)
  }
}
