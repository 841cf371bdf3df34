import Foundation
import Testing

/// `--pin`: who computes stays where it is, and beside nobody.
@Suite struct PinTests {
  /// The processors that the named threads of the process's children may use, as the kernel writes them: "0-3,8".
  private func processors(ofThreads name: String, ofChildrenOf parent: Int32) -> [String] {
    let files = FileManager.default
    func names(_ folder: String) -> [String] { (try? files.contentsOfDirectory(atPath: folder)) ?? [] }
    func text(_ path: String) -> String { (try? String(contentsOfFile: path, encoding: .utf8)) ?? "" }
    func field(_ name: String, _ status: String) -> String? {
      status.split(separator: "\n").first { $0.hasPrefix(name + ":\t") }.map { String($0.dropFirst(name.count + 2)) }
    }
    let children = names("/proc").filter { process in
      Int(process) != nil && field("PPid", text("/proc/\(process)/status")) == "\(parent)"
    }
    return children.flatMap { child in
      names("/proc/\(child)/task").compactMap { task in
        let status = text("/proc/\(child)/task/\(task)/status")
        return field("Name", status) == name ? field("Cpus_allowed_list", status) : nil
      }
    }.sorted()
  }

  @Test(.timeLimit(.minutes(3))) func localWorkersComputeOnProcessorsOfTheirOwn() throws {
    try #require(ProcessInfo.processInfo.activeProcessorCount >= 2, "two workers need two processors")
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let run = folder.path("run")
    let process = try Command.Running([
      "train", "--config", configuration, "--run", run, "--workers", "2", "--threads", "1", "--pin", "--set",
      "run.steps=400", "--set", "checkpoint.every=400",
    ])
    #expect(process.waitUntil(seconds: 60) { TinyRun.committedSteps(run) >= 2 }, "\(process.errorsSoFar)")

    let compute = processors(ofThreads: "compute", ofChildrenOf: process.process.processIdentifier)
    #expect(compute.count == 2 && Set(compute).count == 2, "\(compute)")
    #expect(compute.allSatisfy { Int($0) != nil }, "not one processor each: \(compute)")
    // Threads that the compute thread makes are not held where it is.
    let data = processors(ofThreads: "data", ofChildrenOf: process.process.processIdentifier)
    #expect(data.count == 2 && data.allSatisfy { Int($0) == nil }, "\(data)")

    process.process.terminate()
    #expect(process.wait(seconds: 60).code == 0)
  }

  @Test func moreThreadsThanProcessorsAreRefused() throws {
    for command in [
      ["worker", "join", "tcp://127.0.0.1:1", "--threads", "4096", "--pin"],
      ["worker", "join", "tcp://127.0.0.1:1", "--threads", "2048", "--workers", "2", "--pin"],
      ["bench", "compute", "--threads", "4096", "--pin"],
    ] {
      let result = try Command.run(command)
      #expect(result.code == 64 && result.errors.contains("4096"), "\(command): \(result.text)")
    }
  }
}
