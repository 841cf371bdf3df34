import ControlPlane
import Foundation
import Testing

/// Golden scenarios: each file in `Scenarios` is named by the claim that it proves. A block is commands, `----`
/// and what the machine decides, up to an empty line; see ``ScenarioWorld`` for the commands.
///
/// To accept new output after reading it: `TRANSFUSION_REWRITE_SCENARIOS=1 swift test --filter ScenarioTests`.
@Suite("Coordinator scenarios") struct ScenarioTests {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Scenarios")

  static let names: [String] = {
    let files = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
    return files.filter { $0.hasSuffix(".txt") }.sorted()
  }()

  @Test("there are scenarios") func exist() { #expect(Self.names.count >= 20) }

  @Test(arguments: names) func scenario(_ name: String) throws {
    let file = Self.folder.appending(path: name)
    let expected = try String(contentsOf: file, encoding: .utf8)
    let actual = Self.replay(expected)
    if ProcessInfo.processInfo.environment["TRANSFUSION_REWRITE_SCENARIOS"] != nil {
      try actual.write(to: file, atomically: true, encoding: .utf8)
      return
    }
    #expect(actual == expected, "\(name)")
  }

  /// The same file with the output that the machine gives today.
  static func replay(_ text: String) -> String {
    var world = ScenarioWorld()
    var result: [String] = []
    var commands: [String] = []
    var isOutput = false
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).map(String.init) {
      if line.isEmpty {
        if isOutput { result.append("") }
        isOutput = false
      } else if line == "----" {
        result += commands + ["----"]
        let outputs = commands.map { world.perform($0) }.filter { !$0.isEmpty }
        result += outputs
        commands = []
        isOutput = true
      } else if line.hasPrefix("#") {
        result.append(line)
      } else if !isOutput {
        commands.append(line)
      }
    }
    while result.last == "" { result.removeLast() }
    return result.joined(separator: "\n") + "\n"
  }
}
