import Foundation
import Testing

/// The committed corpus, and some thousand changed inputs of one seed, through every decoder.
///
/// The program is a process of its own, and decodes in processes of their own: what it finds would end this one.
@Suite struct FuzzTests {
  private static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent()

  /// The program built with these tests: beside the test bundle.
  private static let program: URL = {
    let bundle = URL(filePath: CommandLine.arguments[0]).resolvingSymlinksInPath().deletingLastPathComponent()
    let folders = [bundle, root.appending(path: ".build/release"), root.appending(path: ".build/debug")]
    return folders.map { $0.appending(path: "fuzz") }.first { FileManager.default.isExecutableFile(atPath: $0.path) }
      ?? root.appending(path: ".build/release/fuzz")
  }()

  private func run(_ arguments: [String]) throws -> (code: Int32, output: String) {
    let output = FileManager.default.temporaryDirectory.appending(path: "fuzz-\(UUID().uuidString)")
    _ = FileManager.default.createFile(atPath: output.path, contents: nil)
    defer { try? FileManager.default.removeItem(at: output) }
    let process = Process()
    process.executableURL = Self.program
    process.arguments = arguments
    process.currentDirectoryURL = Self.root
    process.standardInput = FileHandle.nullDevice
    process.standardOutput = try FileHandle(forWritingTo: output)
    try process.run()
    process.waitUntilExit()
    return (process.terminationStatus, try String(contentsOf: output, encoding: .utf8))
  }

  @Test(.timeLimit(.minutes(5))) func noDecoderCrashesHangsOrTakesAllMemory() throws {
    let findings = FileManager.default.temporaryDirectory.appending(path: "fuzz-findings-\(UUID().uuidString)")
    let (code, output) = try run(["--each", "2000", "--seed", "4", "--findings", findings.path])
    #expect(code == 0, "\(output)")
  }
}
