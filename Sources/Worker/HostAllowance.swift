import Compute
import Foundation

/// What this process may take of its host: by its processors' affinity and by the control groups that it is in, which
/// is how containers and cluster schedulers divide hosts.
///
/// Groups of both versions are understood (Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1): a limit of any
/// group above counts, too.
public struct HostAllowance: Hashable, Sendable {
  /// How many threads can run at a time; at least 1.
  public var processors: Int
  /// Bytes.
  public var memoryBytes: Int

  public static let ofProcess = HostAllowance(
    processors: ProcessInfo.processInfo.activeProcessorCount,
    memoryBytes: Int(clamping: ProcessInfo.processInfo.physicalMemory), groups: "/proc/self/cgroup",
    root: "/sys/fs/cgroup")

  /// - Parameters:
  ///   - processors: those of the host that affinity leaves.
  ///   - memoryBytes: the host's.
  ///   - groups: the file with the process's groups.
  ///   - root: where the groups' files are.
  package init(processors: Int, memoryBytes: Int, groups: String, root: String) {
    self.processors = processors
    self.memoryBytes = memoryBytes
    guard let text = try? String(contentsOfFile: groups, encoding: .utf8) else { return }
    for line in text.split(separator: "\n") {
      // "0::/path" is version 2, "4:memory:/path" version 1.
      let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
      guard fields.count == 3 else { continue }
      if fields[1].isEmpty {
        for folder in Self.folders(root, fields[2]) { takeUnified(folder) }
      } else {
        // "cpu,cpuacct" is mounted under that name, and under each of the two.
        for controller in fields[1].split(separator: ",") where ["cpu", "memory"].contains(controller) {
          for folder in Self.folders(root + "/" + controller, fields[2]) { takeVersion1(folder) }
        }
      }
    }
  }

  /// The group's own folder and all above it. In a container the path may be that of the host, which is not there.
  private static func folders(_ root: String, _ path: Substring) -> [String] {
    var folders = [root]
    for part in path.split(separator: "/") { folders.append(folders[folders.count - 1] + "/" + part) }
    return folders
  }

  private mutating func takeUnified(_ folder: String) {
    if let bytes = Self.numbers(folder + "/memory.max").first { take(memory: bytes) }
    let quota = Self.numbers(folder + "/cpu.max")
    if quota.count == 2 { take(quota: quota[0], period: quota[1]) }
  }

  private mutating func takeVersion1(_ folder: String) {
    if let bytes = Self.numbers(folder + "/memory.limit_in_bytes").first { take(memory: bytes) }
    if let quota = Self.numbers(folder + "/cpu.cfs_quota_us").first,
      let period = Self.numbers(folder + "/cpu.cfs_period_us").first
    {
      take(quota: quota, period: period)
    }
  }

  private mutating func take(memory bytes: Int) {
    if bytes > 0 { memoryBytes = min(memoryBytes, bytes) }
  }

  /// Rounded down: one thread more than the quota stops them all for a part of every period.
  private mutating func take(quota: Int, period: Int) {
    if quota > 0, period > 0 { processors = min(processors, max(quota / period, 1)) }
  }

  /// The numbers of a file of one line; "max" is none, a file that is not there has none.
  private static func numbers(_ path: String) -> [Int] {
    guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return [] }
    return text.split(whereSeparator: \.isWhitespace).compactMap { Int($0) }
  }
}
