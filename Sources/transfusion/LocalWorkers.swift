import Foundation
import Transport

/// Worker processes that a command starts on its own host and that end with it.
final class LocalWorkers {
  private var processes: [Process] = []
  private let logs: URL

  /// - Parameter runDirectory: the workers' logs go to `logs/worker-N.log` in it.
  init(runDirectory: String) throws {
    logs = URL(filePath: runDirectory).appending(path: "logs")
    try FileManager.default.createDirectory(at: logs, withIntermediateDirectories: true)
  }

  /// - Parameter keys: the coordinator's, which its own workers use, too: they are the same user's on the same host.
  func start(
    _ shares: [WorkerResourceOptions.Share], address: String, keys: (publicKey: PublicKey, file: String)?
  ) throws {
    for (number, share) in zip(1..., shares) {
      let log = logs.appending(path: "worker-\(number).log")
      if !FileManager.default.fileExists(atPath: log.path) {
        _ = FileManager.default.createFile(atPath: log.path, contents: nil)
      }
      let handle = try FileHandle(forWritingTo: log)
      try handle.seekToEnd()
      let process = Process()
      process.executableURL = URL(filePath: Self.executable)
      process.arguments =
        ["worker", "join", address, "--exit-with-parent"] + share.arguments
        + (keys.map { ["--key", $0.file, "--coordinator-key=\($0.publicKey)"] } ?? [])
      process.standardInput = FileHandle.nullDevice
      process.standardOutput = handle
      process.standardError = handle
      try process.run()
      processes.append(process)
    }
  }

  /// Whether no worker is left.
  var allEnded: Bool { !processes.isEmpty && processes.allSatisfy { !$0.isRunning } }

  /// The first worker that ended with an error, if any has.
  var failure: Failure? {
    for (index, process) in processes.enumerated() where !process.isRunning && process.terminationStatus != 0 {
      let log = logs.appending(path: "worker-\(index + 1).log")
      let last = (try? String(contentsOf: log, encoding: .utf8))?.split(separator: "\n").last.map(String.init)
      return Failure(
        number: index + 1, status: process.terminationStatus, lastLine: last ?? "its log is empty", log: log.path)
    }
    return nil
  }
  struct Failure {
    var number: Int
    var status: Int32
    var lastLine: String
    var log: String
  }

  /// Waits for all to end by the coordinator's word; those that never heard it are asked after a moment, and
  /// whoever is left after `seconds` is killed.
  func finish(seconds: Double) {
    let start = Date()
    var asked = false
    while processes.contains(where: \.isRunning), Date().timeIntervalSince(start) < seconds {
      if !asked, Date().timeIntervalSince(start) > 2 {
        asked = true
        for process in processes where process.isRunning { process.terminate() }
      }
      usleep(20_000)
    }
    for process in processes where process.isRunning { kill(process.processIdentifier, SIGKILL) }
    for process in processes { process.waitUntilExit() }
  }

  /// An address that listens everywhere is reached over loopback from the same host.
  static func reachable(_ endpoint: String) -> String {
    endpoint.replacing("tcp://0.0.0.0:", with: "tcp://127.0.0.1:").replacing("tcp://[::]:", with: "tcp://[::1]:")
  }

  static var executable: String {
    // /proc/self/exe survives a relative argv[0] and a changed working directory.
    (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
  }
}
