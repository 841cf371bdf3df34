import ArgumentParser
import Benchmarks
import Coordinator
import Foundation

/// `transfusion bench scale`.
struct BenchScaleCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "scale", abstract: "A coordinator and thousands of simulated workers over TCP on this host.",
    discussion: """
      The workers compute nothing: they beat once a second and answer at once, those of one host over one connection. \
      The coordinator is the one that trains, with its journal, and all run on this host's cores.
      """)

  @Option(help: "Simulated workers.")
  var workers = 10_000
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Workers that share a connection, as behind `worker join --workers`; 1 for a connection of its own for each.",
      valueName: "n"))
  var workersPerHost = 8
  @Option(help: "Processes that share them.")
  var swarms = 2
  @Option(help: ArgumentHelp("How long to watch once all are there.", valueName: "seconds"))
  var seconds = 60.0
  @Option(help: ArgumentHelp("Between two steps.", valueName: "seconds"))
  var pause = 0.5
  /// Set in the coordinator's process, which the benchmark starts.
  @Option(name: .long, help: .hidden) var coordinatorOf: String?
  @OptionGroup var output: BenchOutputOptions

  func validate() throws {
    try atLeastOne(("--workers", workers), ("--swarms", swarms), ("--workers-per-host", workersPerHost))
    if workersPerHost > ScaleBenchmark.mostWorkersPerHost {
      throw ValidationError(
        "--workers-per-host is \(workersPerHost); a relay has at most \(ScaleBenchmark.mostWorkersPerHost)")
    }
    if workers > 60_000 { throw ValidationError("--workers is \(workers); a run has at most 60000") }
    if swarms * workersPerHost > workers {
      throw ValidationError("--swarms is \(swarms), but there are only \(workers) workers, \(workersPerHost) a host")
    }
    guard seconds > 0, pause >= 0 else { throw ValidationError("--seconds and --pause must not be negative") }
  }

  func run() async throws {
    guard let coordinatorOf else {
      let benchmark = ScaleBenchmark(
        workers: workers, swarms: swarms, seconds: seconds, pauseSeconds: pause, workersPerHost: workersPerHost)
      return try output.measure { try benchmark.run(scope: $0, progress: $1) }
    }
    ParentProcess.exitWithIt()
    ScaleBenchmark.raiseDescriptorLimit()
    let settings = ScaleBenchmark.coordinatorSettings(runDirectory: coordinatorOf, workers: workers)
    _ = try await onThread("coordinator") {
      try CoordinatorProcess(settings, log: LoggingOptions.standard("coordinator")) { 0 }.run(barrier: {
        step, seconds in
        FileHandle.standardOutput.write(Data("\(ScaleBenchmark.barrierLine(step, seconds))\n".utf8))
      })
    }
  }
}

/// `transfusion bench swarm`: some of the simulated workers of `bench scale`.
struct BenchSwarmCommand: ParsableCommand {
  static let configuration = CommandConfiguration(commandName: "swarm", shouldDisplay: false)

  @Argument var address: String
  @Option var first: Int
  @Option var count: Int
  @Option var total: Int
  @Option var pause: Double
  @Option(name: .long) var workersPerHost: Int

  func run() throws {
    ParentProcess.exitWithIt()
    ScaleBenchmark.raiseDescriptorLimit()
    let swarm = SwarmWorkers(
      address: address, first: first, count: count, total: total, pauseSeconds: pause, workersPerHost: workersPerHost)
    try swarm.run { welcomed, beats in
      let line = ScaleBenchmark.swarmLine(welcomed: welcomed, beats: beats)
      FileHandle.standardOutput.write(Data("\(line)\n".utf8))
    }
  }
}
