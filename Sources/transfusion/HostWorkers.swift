import Foundation
import Logging
import Transport
import Worker

/// The workers of one host behind one connection to the coordinator: a process each, which ends with this one.
final class HostWorkers {
  /// Of one host.
  static let limit = 256
  private static let pollMilliseconds = 50

  private let relay: ControlRelay
  private let joinTimeout: Double
  private let log: Logger
  private var running: [Process] = []
  /// Of the last that ended: what ended the others ended before.
  private var lastCode: Int32 = 0

  /// A folder that only this user can enter, for the relay to listen in. Not named after the process: containers of one
  /// number may share the place.
  struct Folder {
    let path: String
    init() throws {
      path = FileManager.default.temporaryDirectory.path + "/transfusion-\(UUID().uuidString)"
      try FileManager.default.createDirectory(
        atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    }
    var address: String { "ipc://\(path)/relay" }
    func remove() { try? FileManager.default.removeItem(atPath: path) }
  }

  /// Starts the workers.
  /// - Parameters:
  ///   - arguments: of each, but for the relay's address.
  ///   - joinTimeout: how many seconds they wait for the coordinator.
  init(arguments: [[String]], joinTimeout: Double, relay: ControlRelay, log: Logger) throws {
    self.joinTimeout = joinTimeout
    self.relay = relay
    self.log = log
    for arguments in arguments {
      let process = Process()
      process.executableURL = URL(filePath: LocalWorkers.executable)
      process.arguments = arguments + ["--relay", relay.endpoint]
      process.standardInput = FileHandle.nullDevice
      try process.run()
      running.append(process)
    }
    log.info(
      "\(running.count) workers on this host: processes \(running.map { "\($0.processIdentifier)" }.joined(separator: ", "))"
    )
  }

  /// Passes on what they say and hear until all have ended.
  ///
  /// - Parameter stopCount: how often a stop was asked for so far; each time is passed on.
  /// - Throws: ``WorkerError/notLetIn(_:)`` when the coordinator does not let this host in; ``CommandFailure`` with the
  ///   status of the last that ended, when that is an error.
  func run(stopCount: () -> Int) throws {
    defer {
      // Whoever is left has nobody to speak to.
      for process in running { kill(process.processIdentifier, SIGKILL) }
      for process in running { process.waitUntilExit() }
    }
    var timesAsked = 0
    while !running.isEmpty {
      try relay.poll(timeoutMilliseconds: Self.pollMilliseconds)
      if let refusal = relay.refusal { throw WorkerError.notLetIn(refusal) }
      while timesAsked < stopCount() {
        timesAsked += 1
        for process in running { timesAsked == 1 ? process.terminate() : process.interrupt() }
      }
      takeEnded()
    }
    guard lastCode != 0 else { return }
    if relay.failedHandshakes > 0, lastCode == ExitStatus.unavailable.rawValue {
      // They only know that nobody answered; why is known here.
      throw WorkerError.unreachable(
        address: relay.address, seconds: joinTimeout, failedHandshakes: relay.failedHandshakes)
    }
    throw CommandFailure(
      ExitStatus(rawValue: lastCode) ?? .software, "the last worker on this host ended with status \(lastCode)")
  }

  private func takeEnded() {
    // Looked at once: one may end meanwhile.
    let split = running.partition { !$0.isRunning }
    let ended = running[split...]
    running.removeSubrange(split...)
    for process in ended {
      let isKilled = process.terminationReason == .uncaughtSignal
      lastCode = isKilled ? ExitStatus.software.rawValue : process.terminationStatus
      guard isKilled || process.terminationStatus != 0 else { continue }
      let how = isKilled ? "was killed by signal" : "ended with status"
      log.error(
        "the worker of process \(process.processIdentifier) \(how) \(process.terminationStatus), \(running.count) are left"
      )
    }
  }
}
