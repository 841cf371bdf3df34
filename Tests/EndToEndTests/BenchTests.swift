import Foundation
import Testing

/// `transfusion bench`: figures in JSON, and nothing left behind.
@Suite(.serialized) struct BenchTests {
  private static let tiny = ["--preset", "tiny", "--rows", "1", "--length", "64", "--patches", "16"]

  private func figures(_ result: Command.Result) throws -> [String: Double] {
    #expect(result.code == 0, "\(result.text)")
    let object = try #require(JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any])
    for key in ["processor", "fingerprint", "date", "command"] {
      #expect((object[key] as? String)?.isEmpty == false, "\(key)")
    }
    #expect((object["settings"] as? [String: String])?.isEmpty == false)
    return try #require(object["figures"] as? [String: Double])
  }

  @Test func computeMeasuresAStepAndItsFloor() throws {
    let figures = try figures(
      Command.run(["bench", "compute"] + Self.tiny + ["--steps", "2", "--threads", "2", "--phases", "--json"]))
    for key in ["medianStepSeconds", "tokensPerSecond", "peakGigaflops", "floorSeconds", "peakResidentBytes"] {
      #expect(figures[key] ?? 0 > 0, "\(key)")
    }
    // The step does more than its products, at less than their peak.
    #expect(figures["stepOverFloor"] ?? 0 > 1)
    let phases = figures.filter { $0.key.hasPrefix("phases.") && $0.key.hasSuffix(".seconds") }
    #expect(phases.count == 6)
    #expect(phases.values.reduce(0, +) < 3 * (figures["medianStepSeconds"] ?? 0))
  }

  @Test func allReduceRunsInTwoProcesses() throws {
    let figures = try figures(Command.run(["bench", "allreduce", "--size", "4", "--trials", "2", "--json"]))
    #expect(figures["mib4.gibibytesPerSecond"] ?? 0 > 0)
  }

  @Test(arguments: [["data", "--steps", "2"], ["checkpoint", "--every", "4", "--count", "1"]])
  func runsAreMeasuredAndLeaveNothing(_ arguments: [String]) throws {
    let folder = try TemporaryFolder()
    let figures = try figures(
      Command.run(
        ["bench"] + arguments + Self.tiny + ["--threads", "1", "--json"], environment: ["TMPDIR": folder.url.path]))
    #expect(figures["medianStepSeconds"] ?? 0 > 0)
    #expect(figures[arguments[0] == "data" ? "dataWaitShare" : "waitShare"] ?? -1 >= 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.url.path).isEmpty)
  }

  @Test func recoveryIsMeasuredAndLeavesNothing() throws {
    let folder = try TemporaryFolder()
    let figures = try figures(
      Command.run(
        ["bench", "recovery", "--rounds", "1", "--pairs", "1", "--steps", "20", "--json"] + Self.tiny, seconds: 240,
        environment: ["TMPDIR": folder.url.path]))
    for fault in ["killedWorker", "stoppedWorker", "killedCoordinator"] {
      #expect(figures["\(fault).seconds"] ?? 0 > 0, "\(fault)")
      // The other worker is a replica, and has everything.
      #expect(figures["\(fault).stepsAgain"] ?? 9 <= 1, "\(fault)")
    }
    // Silence, where the other deaths close a connection.
    #expect(figures["stoppedWorker.detectionSeconds"] ?? 0 > 1.5)
    #expect(figures["join.firstMicrobatchSeconds"] ?? 0 > 0)
    #expect(figures["journalSeconds"] ?? 0 > 0 && figures["pairRatio"] ?? 0 > 0)
    // Two copies that use memory again, three before them.
    #expect(figures["copySeconds"] ?? 0 > 0 && figures["firstCopySeconds"] ?? 0 > 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.url.path).isEmpty)
  }

  @Test func simulatedWorkersMakeStepsWithARealCoordinator() throws {
    let folder = try TemporaryFolder()
    let figures = try figures(
      Command.run(
        ["bench", "scale", "--workers", "300", "--seconds", "5", "--pause", "0.1", "--json"],
        environment: ["TMPDIR": folder.url.path]))
    #expect(figures["barriers"] ?? 0 >= 2)
    #expect(figures["barrierP99Seconds"] ?? 0 > 0)
    // Each of them beats once a second, and nobody is taken for dead: that would be an error.
    #expect(figures["heartbeatsPerSecond"] ?? 0 > 200)
    #expect(figures["bytesPerWorker"] ?? .infinity < 1_000_000)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.url.path).isEmpty)
  }

  @Test(arguments: [SIGINT, SIGTERM]) func aSignalEndsEverything(_ signal: Int32) throws {
    let folder = try TemporaryFolder()
    let running = try Command.Running(
      ["bench", "pipeline"] + Self.tiny + ["--steps", "100000"], environment: ["TMPDIR": folder.url.path])
    #expect(
      running.waitUntil(seconds: 60) { Self.processes(mentioning: folder.url.path) >= 1 && Self.hasWorker(folder) })
    kill(running.process.processIdentifier, signal)
    #expect(running.wait(seconds: 20).code == 128 + signal)
    #expect(Self.processes(mentioning: folder.url.path) == 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.url.path).isEmpty)
  }

  private static func hasWorker(_ folder: TemporaryFolder) -> Bool {
    let walk = FileManager.default.enumerator(atPath: folder.url.path)
    while let name = walk?.nextObject() as? String { if name.hasSuffix("worker-1.log") { return true } }
    return false
  }

  /// Coordinators: they have the run directory's path among their arguments.
  private static func processes(mentioning path: String) -> Int {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return names.filter { name in
      guard Int32(name) != nil, let bytes = FileManager.default.contents(atPath: "/proc/\(name)/cmdline") else {
        return false
      }
      return String(decoding: bytes, as: UTF8.self).contains(path)
    }.count
  }
}
