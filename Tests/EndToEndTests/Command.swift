import Foundation
import Testing

/// The `transfusion` executable as a user runs it, and what it leaves behind.
struct Command {
  struct Result {
    var code: Int32
    var output: String
    var errors: String
    var text: String { output + errors }
  }

  static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  /// The executable built with these tests: beside the test bundle.
  static let executable: URL = {
    let bundle = URL(filePath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent()
    for folder in [bundle, root.appending(path: ".build/release"), root.appending(path: ".build/debug")] {
      let candidate = folder.appending(path: "transfusion")
      if FileManager.default.isExecutableFile(atPath: candidate.path) { return candidate }
    }
    return root.appending(path: ".build/release/transfusion")
  }()

  /// Runs to the end, or kills it after `seconds` and records an issue.
  @discardableResult static func run(
    _ arguments: [String], seconds: Double = 120, environment: [String: String] = [:]
  ) throws -> Result {
    let running = try Running(arguments, environment: environment)
    return running.wait(seconds: seconds)
  }

  /// A started process whose output is collected.
  final class Running {
    let process = Process()
    private let output: URL
    private let errors: URL

    init(_ arguments: [String], environment: [String: String] = [:], executable: URL = Command.executable) throws {
      let base = FileManager.default.temporaryDirectory.appending(path: "transfusion-\(UUID().uuidString)")
      output = base.appendingPathExtension("out")
      errors = base.appendingPathExtension("err")
      for file in [output, errors] { _ = FileManager.default.createFile(atPath: file.path, contents: nil) }
      process.executableURL = executable
      process.arguments = arguments
      process.currentDirectoryURL = Command.root
      process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
      process.standardInput = FileHandle.nullDevice
      process.standardOutput = try FileHandle(forWritingTo: output)
      process.standardError = try FileHandle(forWritingTo: errors)
      try process.run()
    }

    var outputSoFar: String { (try? String(contentsOf: output, encoding: .utf8)) ?? "" }
    var errorsSoFar: String { (try? String(contentsOf: errors, encoding: .utf8)) ?? "" }

    func wait(seconds: Double) -> Result {
      let deadline = Date().addingTimeInterval(seconds)
      while process.isRunning && Date() < deadline { usleep(10_000) }
      if process.isRunning {
        process.terminate()
        usleep(500_000)
        if process.isRunning { kill(process.processIdentifier, SIGKILL) }
        process.waitUntilExit()
        Issue.record("\(process.arguments ?? []) did not end within \(seconds) s:\n\(outputSoFar)\(errorsSoFar)")
      }
      return Result(code: process.terminationStatus, output: outputSoFar, errors: errorsSoFar)
    }

    /// Waits until `condition` holds; false after `seconds` or when the process ends before.
    func waitUntil(seconds: Double, _ condition: () -> Bool) -> Bool {
      let deadline = Date().addingTimeInterval(seconds)
      while Date() < deadline {
        if condition() { return true }
        if !process.isRunning { return condition() }
        usleep(20_000)
      }
      return false
    }

    deinit {
      if process.isRunning { kill(process.processIdentifier, SIGKILL) }
      try? FileManager.default.removeItem(at: output)
      try? FileManager.default.removeItem(at: errors)
    }
  }
}

/// A folder that goes away with the test process.
///
/// Not with the value: optimised code may end its life at the last mention, while the path is still in use.
struct TemporaryFolder: Sendable {
  let url: URL
  init() throws {
    url = FileManager.default.temporaryDirectory.appending(path: "transfusion-test-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    atexitRemoval.register(url.path)
  }
  func path(_ name: String) -> String { url.appending(path: name).path }
}
