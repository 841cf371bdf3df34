import Foundation
import Testing
import Worker

@Suite struct HostAllowanceTests {
  /// Control groups as files, and what they leave of a host of 16 processors and 64 GB.
  private func allowance(groups: String, _ files: [String: String]) throws -> HostAllowance {
    let root = FileManager.default.temporaryDirectory.appending(path: "transfusion-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: root) }
    for (path, text) in files.merging(["groups": groups], uniquingKeysWith: { $1 }) {
      let file = root.appending(path: path)
      try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try text.write(to: file, atomically: true, encoding: .utf8)
    }
    return HostAllowance(
      processors: 16, memoryBytes: 64_000_000_000, groups: root.appending(path: "groups").path, root: root.path)
  }

  @Test func aHostWithoutLimitsIsAllOurs() throws {
    let all = try allowance(groups: "0::/\n", ["memory.max": "max\n", "cpu.max": "max 100000\n"])
    #expect(all.processors == 16 && all.memoryBytes == 64_000_000_000)
    let none = HostAllowance(processors: 3, memoryBytes: 5, groups: "/nowhere/groups", root: "/nowhere")
    #expect(none.processors == 3 && none.memoryBytes == 5)
  }

  @Test func limitsOfGroupsAboveCount() throws {
    let found = try allowance(
      groups: "0::/slurm/job_7/step_0\n",
      [
        "slurm/job_7/memory.max": "8000000000\n", "slurm/job_7/step_0/memory.max": "max\n",
        "slurm/job_7/step_0/cpu.max": "350000 100000\n", "slurm/cpu.max": "800000 100000\n",
      ])
    // Three and a half processors: a fourth thread would be stopped for half of every period, and the others wait.
    #expect(found.processors == 3 && found.memoryBytes == 8_000_000_000)
  }

  @Test func aContainerSeesItsOwnGroupAsTheRoot() throws {
    let found = try allowance(
      groups: "0::/kubepods/pod1/container\n", ["memory.max": "2000000000", "cpu.max": "50000 100000"])
    #expect(found.processors == 1 && found.memoryBytes == 2_000_000_000)
  }

  @Test func groupsOfVersion1() throws {
    let found = try allowance(
      groups: "5:cpuacct,cpu:/job\n4:memory:/job\n3:pids:/job\n",
      [
        "memory/memory.limit_in_bytes": "9223372036854771712", "memory/job/memory.limit_in_bytes": "3000000000",
        "cpu/job/cpu.cfs_quota_us": "600000", "cpu/job/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
      ])
    #expect(found.processors == 6 && found.memoryBytes == 3_000_000_000)
  }
}
