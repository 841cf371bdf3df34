import CSystem
import Foundation

/// Worker processes that a command starts on its own host and that end with it.
final class LocalWorkers {
  private var processes: [Process] = []
  private let logs: URL

  /// - Parameter runDirectory: the workers' logs go to `logs/worker-N.log` in it.
  init(runDirectory: String) throws {
    logs = URL(filePath: runDirectory).appending(path: "logs")
    try FileManager.default.createDirectory(at: logs, withIntermediateDirectories: true)
  }

  func start(count: Int, address: String, resources: WorkerResourceOptions) throws {
    let share = resources.share(of: count)
    for number in 1...count {
      let log = logs.appending(path: "worker-\(number).log")
      if !FileManager.default.fileExists(atPath: log.path) { _ = FileManager.default.createFile(atPath: log.path, contents: nil) }
      let handle = try FileHandle(forWritingTo: log)
      try handle.seekToEnd()
      let process = Process()
      process.executableURL = URL(filePath: Self.executable)
      process.arguments =
        [
          "worker", "join", address, "--threads", "\(share.threads)", "--memory-limit", "\(share.memoryLimit)",
          "--exit-with-parent",
        ] + (resources.pin ? ["--pin"] : [])
      process.standardInput = FileHandle.nullDevice
      process.standardOutput = handle
      process.standardError = handle
      try process.run()
      processes.append(process)
    }
  }

  /// Waits for all to end; after `seconds` the rest is killed.
  func finish(seconds: Double) {
    let deadline = Date().addingTimeInterval(seconds)
    while processes.contains(where: \.isRunning), Date() < deadline { usleep(20_000) }
    for process in processes where process.isRunning { kill(process.processIdentifier, SIGKILL) }
    for process in processes { process.waitUntilExit() }
  }

  private static var executable: String {
    // /proc/self/exe survives a relative argv[0] and a changed working directory.
    (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
  }
}

enum ParentProcess {
  /// SIGTERM to this process when the one that started it ends, however it ends.
  static func exitWithIt() { csystem_terminate_with_parent() }
}
