import Foundation
import Testing

/// A coordinator and workers as processes, some of which are killed, stopped, sent away or joined while training goes
/// on: the final state is that of a run to which nothing happened.
@Suite(.serialized) struct SurvivalTests {
  /// Processes of one run, on a fixed port, so that a coordinator can be started again with the same command.
  private final class Cluster {
    let run: String
    private let arguments: [String]
    private let address: String
    private(set) var coordinator: Command.Running
    private(set) var workers: [Command.Running] = []

    init(_ run: String, configuration: String, set: [String]) throws {
      self.run = run
      address = "tcp://127.0.0.1:\(try Sockets.freePort())"
      arguments =
        ["coordinator", "start", "--config", configuration, "--run", run, "--listen", address, "--exit-with-parent"]
        + set.flatMap { ["--set", $0] }
      coordinator = try Command.Running(arguments)
    }

    @discardableResult func join() throws -> Command.Running {
      let worker = try Command.Running([
        "worker", "join", address, "--threads", "1", "--memory-limit", "1000000000", "--exit-with-parent",
      ])
      workers.append(worker)
      return worker
    }

    /// Several behind one connection.
    @discardableResult func joinTogether(_ count: Int) throws -> Command.Running {
      let host = try Command.Running([
        "worker", "join", address, "--workers", "\(count)", "--threads", "1", "--memory-limit", "1000000000",
        "--exit-with-parent",
      ])
      workers.append(host)
      return host
    }

    func restartCoordinator() throws {
      Self.signal(coordinator, SIGKILL)
      coordinator.process.waitUntilExit()
      coordinator = try Command.Running(arguments)
    }

    static func signal(_ running: Command.Running, _ number: Int32) {
      kill(running.process.processIdentifier, number)
    }

    var log: String { coordinator.errorsSoFar }

    func reach(_ step: Int) {
      #expect(coordinator.waitUntil(seconds: 90) { TinyRun.committedSteps(run) >= step }, "\(log)")
    }

    /// Waits until the coordinator has said so.
    func hear(_ text: String) {
      #expect(coordinator.waitUntil(seconds: 30) { log.contains(text) }, "\(log)")
    }

    /// Waits for the end of the coordinator and of all workers that were not killed.
    func end() -> Command.Result {
      let result = coordinator.wait(seconds: 120)
      for worker in workers { _ = worker.wait(seconds: 20) }
      return result
    }
  }

  private static let steps = ["run.steps=60", "checkpoint.every=1000", "validation.every=0"]

  private func undisturbed(_ folder: TemporaryFolder, _ configuration: String, _ set: [String]) throws -> String {
    try TinyRun.train(folder.path("whole"), configuration: configuration, workers: 1, set: set)
    return try TinyRun.digest(folder.path("whole"))
  }

  @Test(
    "workers die, join and leave: with a replica alive no committed step is computed again", .timeLimit(.minutes(4)))
  func workersComeAndGo() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let expected = try undisturbed(folder, configuration, Self.steps)
    let cluster = try Cluster(
      folder.path("run"), configuration: configuration, set: Self.steps + ["parallelism.workers=2"])
    let first = try cluster.join()
    let second = try cluster.join()
    cluster.reach(5)
    Cluster.signal(second, SIGKILL)
    cluster.reach(10)
    let third = try cluster.join()
    cluster.hear("worker 3 joined")
    cluster.reach(30)
    Cluster.signal(first, SIGTERM)
    let left = first.wait(seconds: 30)
    #expect(left.code == 0, "\(left.text)")
    let result = cluster.end()
    #expect(result.code == 0, "\(result.text)")
    #expect(result.errors.contains("lost worker"))
    #expect(result.errors.contains("joined") && result.errors.contains("leaves"))
    #expect(!result.errors.contains("computed again"), "\(result.errors)")
    #expect(third.process.terminationStatus == 0)
    #expect(try TinyRun.digest(cluster.run) == expected)
    let ledger = try Command.run(["ledger", "verify", cluster.run])
    #expect(ledger.code == 0, "\(ledger.text)")
  }

  @Test("stages without a replica come from copies in memory", .timeLimit(.minutes(4)))
  func stagesComeFromCopies() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let expected = try undisturbed(folder, configuration, Self.steps)
    let cluster = try Cluster(
      folder.path("run"), configuration: configuration,
      set: Self.steps + ["parallelism.workers=2", "parallelism.stages=2", "checkpoint.copy_every=4"])
    try cluster.join()
    let second = try cluster.join()
    cluster.reach(10)
    var lastCopy: Int?
    for _ in 0..<20 where lastCopy == nil {
      let status = try Command.run(["status", cluster.run, "--json"])
      let json = try JSONSerialization.jsonObject(with: Data(status.output.utf8)) as? [String: Any]
      lastCopy = json?["lastCopy"] as? Int
    }
    #expect((lastCopy ?? 0) > 0 && (lastCopy ?? 0).isMultiple(of: 4), "status names \(lastCopy ?? 0)")
    Cluster.signal(second, SIGKILL)
    let result = cluster.end()
    #expect(result.code == 0, "\(result.text)")
    #expect(!result.errors.contains("made from the seed;"), "the copies were not used: \(result.errors)")
    #expect(try TinyRun.digest(cluster.run) == expected)
  }

  @Test(
    "workers behind one connection: one of them dies, the coordinator is killed, they leave together",
    .timeLimit(.minutes(4)))
  func workersOfAHost() throws {
    let folder = try TemporaryFolder()
    let steps = ["run.steps=120", "checkpoint.every=1000", "validation.every=0"]
    let configuration = try TinyRun.configuration(in: folder)
    let expected = try undisturbed(folder, configuration, steps)
    let cluster = try Cluster(
      folder.path("run"), configuration: configuration, set: steps + ["parallelism.workers=3"])
    let host = try cluster.joinTogether(3)
    cluster.reach(5)
    let started = try #require(host.errorsSoFar.split(separator: "\n").first { $0.contains("processes ") })
    let processes = started.split(separator: " ").suffix(3).compactMap {
      pid_t($0.trimmingCharacters(in: .punctuationCharacters))
    }
    try #require(processes.count == 3, "\(started)")
    kill(processes[1], SIGKILL)
    #expect(cluster.coordinator.waitUntil(seconds: 20) { cluster.log.contains("lost worker") }, "\(cluster.log)")
    cluster.reach(15)
    try cluster.restartCoordinator()
    cluster.reach(25)
    try cluster.join()
    // Only when it is there: those who leave before take the run with them.
    cluster.hear("worker 4 joined")
    // All of them leave by one signal; who has come goes on alone.
    Cluster.signal(host, SIGTERM)
    let left = host.wait(seconds: 30)
    #expect(left.code == 0, "\(left.text)")
    #expect(left.errors.contains("was killed by signal 9, 2 are left"), "\(left.errors)")
    let result = cluster.end()
    #expect(result.code == 0, "\(result.text)")
    #expect(!result.errors.contains("computed again"), "\(result.errors)")
    #expect(try TinyRun.digest(cluster.run) == expected, "\(result.errors)")
    let ledger = try Command.run(["ledger", "verify", cluster.run])
    #expect(ledger.code == 0, "\(ledger.text)")
    for process in processes { #expect(kill(process, 0) != 0, "process \(process) is still there") }
  }

  @Test("the coordinator is killed and started again: nothing is lost, nothing done twice", .timeLimit(.minutes(4)))
  func coordinatorIsKilled() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let expected = try undisturbed(folder, configuration, Self.steps)
    let cluster = try Cluster(
      folder.path("run"), configuration: configuration, set: Self.steps + ["parallelism.workers=3"])
    for _ in 0..<3 { try cluster.join() }
    for step in [5, 20, 35] {
      cluster.reach(step)
      try cluster.restartCoordinator()
    }
    let result = cluster.end()
    #expect(result.code == 0, "\(result.text)")
    #expect(!result.errors.contains("computed again"), "\(result.errors)")
    #expect(try TinyRun.digest(cluster.run) == expected)
    #expect(try TinyRun.journal(cluster.run, "SELECT count(*), max(step) FROM steps") == ["60|59"])
  }

  @Test("a worker that was stopped for a while is given up, and taken back", .timeLimit(.minutes(4)))
  func stoppedWorkerReturns() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let set = ["run.steps=150", "checkpoint.every=1000", "validation.every=0"]
    let expected = try undisturbed(folder, configuration, set)
    let cluster = try Cluster(folder.path("run"), configuration: configuration, set: set + ["parallelism.workers=2"])
    try cluster.join()
    let second = try cluster.join()
    cluster.reach(5)
    Cluster.signal(second, SIGSTOP)
    let isGivenUp = cluster.coordinator.waitUntil(seconds: 20) { cluster.log.contains("silent for more than") }
    #expect(isGivenUp, "\(cluster.log)")
    Cluster.signal(second, SIGCONT)
    let result = cluster.end()
    #expect(result.code == 0, "\(result.text)")
    #expect(result.errors.contains("is back"), "\(result.errors)")
    #expect(try TinyRun.digest(cluster.run) == expected)
  }
}
