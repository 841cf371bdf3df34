import Foundation
import Testing

@Suite struct StyleTests {
  static let banned: [(pattern: String, why: String, except: Set<String>)] = [
    (#"\btry!"#, "throws must be handled", []),
    (#"\bas!"#, "a cast that traps", []),
    (#"\bfatalError\("#, "trap with a precondition that says what is broken", []),
    (#"\bprint\("#, "libraries return or log; only the command line prints", ["transfusion"]),
    (#"@testable"#, "tests use the public interface, so that they build in release mode", []),
    (#"\b(SystemRandomNumberGenerator|arc4random|drand48)\b"#, "randomness is counter-based", []),
    (
      #"\.random\("#, "randomness is counter-based; identifiers come from the shells",
      ["Coordinator", "Transport", "transfusion"]
    ),
    (#"\b(TODO|FIXME|XXX)\b"#, "finish it or open an issue", []),
  ]

  @Test func bannedCallsAreAbsent() throws {
    for file in try SourceTree().files {
      for (number, text) in SourceTree.code(file) {
        for rule in Self.banned where !rule.except.contains(file.module) {
          if text.firstMatch(of: try Regex(rule.pattern)) != nil {
            Issue.record("\(file.path):\(number): \(rule.pattern): \(rule.why)")
          }
        }
      }
    }
  }

  @Test func unfinishedWorkIsNotHiddenInComments() throws {
    for file in try SourceTree().files {
      for (index, line) in file.lines.enumerated() {
        #expect(line.firstMatch(of: #/\b(TODO|FIXME|XXX|unimplemented)\b/#) == nil, "\(file.path):\(index + 1)")
      }
    }
  }

  @Test func uncheckedSendableHasItsReasonOnTheLineAbove() throws {
    for file in try SourceTree().files where file.module != "Wire" || !file.path.hasSuffix(".pb.swift") {
      for (index, line) in file.lines.enumerated()
      where line.contains("@unchecked Sendable") || line.contains("nonisolated(unsafe)") {
        if line.trimmingCharacters(in: .whitespaces).hasPrefix("//") { continue }
        let above = index > 0 ? file.lines[index - 1].trimmingCharacters(in: .whitespaces) : ""
        #expect(above.hasPrefix("//"), "\(file.path):\(index + 1)")
      }
    }
  }

  @Test func filesAreReadInOneSitting() throws {
    for file in try SourceTree().files where !file.path.hasSuffix(".pb.swift") {
      #expect(file.lines.count <= 600, "\(file.path) has \(file.lines.count) lines")
      for name in ["Utils", "Helpers", "Managers"] { #expect(!file.path.contains(name), "\(file.path)") }
    }
  }

  /// Files that the README names exist, and nothing in it waits to be filled in.
  @Test func theReadmeNamesWhatIsThere() throws {
    let root = try SourceTree().root
    let text = try String(contentsOf: root.appending(path: "README.md"), encoding: .utf8)
    #expect(text.firstMatch(of: #/@[A-Z]+@/#) == nil)
    let links = text.matches(of: #/\]\(([^)#:]+)\)/#).map { String($0.1) }
    let fixtures = text.matches(of: #/(?:Tests|ops)\/[\w\/.-]+/#).map { String($0.0) }
    #expect(links.count > 4 && fixtures.count > 4)
    for path in links + fixtures {
      #expect(FileManager.default.fileExists(atPath: root.appending(path: path).path), "\(path)")
    }
  }

  @Test func theTopLevelHoldsNothingUnexpected() throws {
    let allowed: Set<String> = [
      "Package.swift", "Package.resolved", "Sources", "Tests", "cluster", "configs", "ops", "README.md", "docs",
      "CHANGELOG.md", "LICENSE", "runs", "data",
    ]
    let root = try SourceTree().root
    for name in try FileManager.default.contentsOfDirectory(atPath: root.path) where !name.hasPrefix(".") {
      #expect(allowed.contains(name), "\(name)")
    }
  }
}
