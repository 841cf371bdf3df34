import Configuration
import Coordinator
import Foundation

#if canImport(Glibc)
  import Glibc
#endif

/// A run that goes on while its processes are killed, stopped, joined and started again; looked at from outside.
final class LiveRun {
  /// A process and the file of its log.
  struct Member {
    var process: Process
    var log: String
    var identifier: pid_t { process.processIdentifier }
  }
  private(set) var coordinator: Member
  private(set) var workers: [Member] = []
  let journal: Journal
  private let scope: BenchmarkScope
  private let folder: String
  private let address: String
  private let coordinatorArguments: [String]
  private var started = 1

  /// How long anything that is waited for may take.
  static let patienceSeconds = 120.0

  /// - Parameter configuration: with more steps than will be made.
  init(_ configuration: RunConfiguration, workers count: Int, scope: BenchmarkScope) throws {
    self.scope = scope
    folder = try scope.directory()
    var configuration = configuration
    configuration.parallelism.workers = count
    let file = folder + "/run.yaml"
    try configuration.yaml.write(toFile: file, atomically: true, encoding: .utf8)
    let run = RunDirectory(folder + "/run")
    // The same command must find the same address again.
    address = "tcp://127.0.0.1:\(try Self.freePort())"
    coordinatorArguments = ["coordinator", "start", "--config", file, "--run", run.path, "--listen", address]
    let log = folder + "/coordinator-1.log"
    coordinator = Member(process: try scope.start(coordinatorArguments, log: log), log: log)
    let process = coordinator.process
    _ = try scope.wait(
      for: "the coordinator's address", seconds: Self.patienceSeconds, during: [("coordinator", process, log)]
    ) { run.liveCoordinator() }
    journal = try Journal.reading(path: run.journal)
    for _ in 0..<count { try join() }
  }

  /// Ends every process and removes the files.
  func end() {
    for member in workers + [coordinator] {
      kill(member.identifier, SIGKILL)
      scope.wait(for: member.process, seconds: 5)
    }
    workers = []
    scope.remove(folder)
  }

  @discardableResult func join() throws -> Member {
    started += 1
    let log = "\(folder)/worker-\(started).log"
    let member = Member(
      process: try scope.startWorker(joining: address, threads: 1, memoryShare: 0.2, log: log), log: log)
    workers.append(member)
    return member
  }

  /// Sends a signal to the oldest worker and forgets it unless it is to be ended later.
  /// - Returns: the worker, and the seconds since 1970 just before.
  func signalOldestWorker(_ number: Int32) -> (worker: Member, at: Double) {
    let worker = workers.removeFirst()
    let at = Date().timeIntervalSince1970
    kill(worker.identifier, number)
    return (worker, at)
  }

  func bury(_ worker: Member) {
    kill(worker.identifier, SIGKILL)
    scope.wait(for: worker.process, seconds: 10)
  }

  /// Kills the coordinator and starts it again with the same command.
  /// - Returns: seconds since 1970 just before.
  func restartCoordinator() throws -> Double {
    let at = Date().timeIntervalSince1970
    kill(coordinator.identifier, SIGKILL)
    scope.wait(for: coordinator.process, seconds: 10)
    started += 1
    let log = "\(folder)/coordinator-\(started).log"
    coordinator = Member(process: try scope.start(coordinatorArguments, log: log), log: log)
    return at
  }

  /// Waits until `condition` gives a value.
  func wait<Value>(for what: String, _ condition: () throws -> Value?) throws -> Value {
    try scope.wait(
      for: what, seconds: Self.patienceSeconds,
      during: [("coordinator", coordinator.process, coordinator.log)]
        + workers.map { ("worker", $0.process, $0.log) }, condition)
  }

  /// Lines of a log with when they were written, in seconds since 1970; lines without a time are left out.
  static func lines(_ path: String) -> [(at: Double, text: Substring)] {
    let format = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
    let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
    return text.split(separator: "\n").compactMap { line in
      guard let space = line.firstIndex(of: " "), let date = try? format.parse(String(line[..<space])) else {
        return nil
      }
      return (date.timeIntervalSince1970, line[line.index(after: space)...])
    }
  }

  /// A port that was free a moment ago.
  private static func freePort() throws -> UInt16 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = in_addr_t(0x7F00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let code = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { name in
        bind(descriptor, name, length) == 0 ? getsockname(descriptor, name, &length) : -1
      }
    }
    guard descriptor >= 0, code == 0 else { throw BenchmarkError.cannotWrite(path: "a loopback port") }
    return UInt16(bigEndian: address.sin_port)
  }
}
