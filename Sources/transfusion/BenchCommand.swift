import ArgumentParser
import Benchmarks
import Compute
import Foundation
import TransfusionModel

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measures this build on this machine.",
    discussion: """
      Figures are worth something as ratios of things measured alternately in one run on a machine that does nothing \
      else: `ops/bench` does that, and docs/performance.md has its results.
      """,
    subcommands: [
      BenchComputeCommand.self, BenchAllReduceCommand.self, BenchPipelineCommand.self, BenchCheckpointCommand.self,
      BenchDataCommand.self, BenchRecoveryCommand.self, BenchScaleCommand.self, BenchSwarmCommand.self,
    ])
}

/// How a benchmark's report is shown.
struct BenchOutputOptions: ParsableArguments {
  @Flag(help: "Print one JSON object instead of text.")
  var json = false

  func show(_ report: BenchmarkReport) throws { print(json ? try report.json() : report.text) }

  /// Measures with processes and files that end with this command, also when it is asked to end early.
  func measure(_ body: (BenchmarkScope, (String) -> Void) throws -> BenchmarkReport) throws {
    let scope = BenchmarkScope()
    scope.endOnSignals()
    defer { scope.end() }
    try show(body(scope) { StandardError.write("bench: \($0)") })
  }
}

/// The model and microbatch of a benchmark.
struct BenchModelOptions: ParsableArguments {
  @Option(help: "tiny, small, 0.16B, 0.37B or 0.76B.")
  var preset: BenchmarkPreset = .small
  @Option(help: "Rows of a microbatch.")
  var rows = 4
  @Option(help: "Elements of a row.")
  var length = 512
  @Option(help: "Patches of an image; a square number, at most half of --length.")
  var patches = 64
  @Option(help: "float32 or bfloat16.")
  var precision: VerifyPrecision = .bfloat16

  var value: BenchmarkModel {
    BenchmarkModel(preset: preset, rows: rows, length: length, patches: patches, precision: precision.value)
  }

  func validate() throws {
    for (name, value) in [("--rows", rows), ("--length", length)] where value < 1 {
      throw ValidationError("\(name) is \(value); it must be at least 1")
    }
    let side = Int(Double(max(patches, 0)).squareRoot().rounded())
    if patches < 4 || side * side != patches {
      throw ValidationError("--patches is \(patches); it must be a square number from 4 on")
    }
    if 2 * patches > length { throw ValidationError("--patches is \(patches); a row of \(length) holds no such image") }
  }
}

/// `transfusion bench compute`.
struct BenchComputeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compute",
    abstract: "One worker's training step: tokens per second, memory, and the step over its matrix products' floor.")

  @OptionGroup var model: BenchModelOptions
  @Option(help: "Compute threads.")
  var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(help: "Steps that are measured, after two that are not.")
  var steps = 5
  @Flag(help: "Keep each compute thread on one processor.")
  var pin = false
  @Option(help: "What the backward pass makes again instead of keeping it: none, selective or full.")
  var recompute = Recompute.nothing
  @Flag(help: "Show the seconds of each part of the step, and the speed of its products.")
  var phases = false
  @OptionGroup var output: BenchOutputOptions

  func validate() throws { try atLeastOne(("--threads", threads), ("--steps", steps)) }

  func run() throws {
    var benchmark = ComputeBenchmark(
      model: model.value, threads: threads, steps: steps)
    benchmark.processors = try processors()
    benchmark.recompute = recompute
    benchmark.phases = phases
    try output.show(benchmark.run())
  }

  private func processors() throws -> [Int]? {
    guard pin else { return nil }
    let processors = ProcessorAffinity.ofProcess
    guard threads <= processors.count else {
      throw ValidationError("--pin needs a processor for each of \(threads) threads; there are \(processors.count)")
    }
    return processors
  }
}

extension BenchmarkPreset: ExpressibleByArgument {}

func atLeastOne(_ values: (name: String, value: Int)...) throws {
  for (name, value) in values where value < 1 {
    throw ValidationError("\(name) is \(value); it must be at least 1")
  }
}

/// `transfusion bench allreduce`.
struct BenchAllReduceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "allreduce",
    abstract: "Sums float32 gradients of two processes of one thread each over the data plane.")

  @Option(name: .long, parsing: .singleValue, help: ArgumentHelp("Size of the gradient; repeatable.", valueName: "MiB"))
  var size: [Int] = [4, 64, 512]
  @Option(help: "Times that each size is summed; the best counts, as in the peer.")
  var trials = 6
  /// Set in the second process, which the first starts.
  @Option(name: .long, help: .hidden) var peerOf: String?
  @OptionGroup var output: BenchOutputOptions

  func validate() throws {
    try atLeastOne(("--trials", trials))
    for value in size where value < 4 || value % 4 != 0 {
      throw ValidationError("--size is \(value); it must be a multiple of 4 MiB")
    }
    if Set(size).count != size.count { throw ValidationError("--size names a size twice") }
  }

  func run() throws {
    let benchmark = AllReduceBenchmark(mebibytes: size, trials: trials)
    if let peerOf {
      ParentProcess.exitWithIt()
      return try benchmark.runPeer(of: peerOf) { FileHandle.standardOutput.write(Data("\($0)\n".utf8)) }
    }
    try output.measure { try benchmark.run(scope: $0, progress: $1) }
  }
}

/// `transfusion bench pipeline`.
struct BenchPipelineCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pipeline",
    abstract: "Whole runs of 8 microbatches a step: 2 replicas against 1 worker, 2 stages against the ideal pipeline.")

  @OptionGroup var model: BenchModelOptions
  @Option(help: "Steps that are measured in each run, after two that are not.")
  var steps = 6
  @Option(help: "How often each kind of run is started, alternating.")
  var rounds = 2
  @OptionGroup var output: BenchOutputOptions

  func validate() throws { try atLeastOne(("--steps", steps), ("--rounds", rounds)) }

  func run() throws {
    let benchmark = PipelineBenchmark(
      model: model.value, steps: steps, rounds: rounds)
    try output.measure { try benchmark.run(scope: $0, progress: $1) }
  }
}

/// `transfusion bench checkpoint`.
struct BenchCheckpointCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "checkpoint", abstract: "How long training waits for checkpoints, and how fast they are written.")

  @OptionGroup var model: BenchModelOptions
  @Option(help: "Compute threads.")
  var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(help: "Steps between two checkpoints.")
  var every = 12
  @Option(help: "Checkpoints that are measured.")
  var count = 2
  @Option(help: ArgumentHelp("Where to write; by default the temporary directory.", valueName: "dir"))
  var directory: String?
  @OptionGroup var output: BenchOutputOptions

  func validate() throws {
    try atLeastOne(("--threads", threads), ("--count", count))
    if every < 4 { throw ValidationError("--every is \(every); it must be at least 4") }
  }

  func run() throws {
    var benchmark = CheckpointBenchmark(
      model: model.value, threads: threads, every: every, count: count)
    benchmark.directory = directory
    try output.measure { try benchmark.run(scope: $0, progress: $1) }
  }
}

/// `transfusion bench data`.
struct BenchDataCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "data", abstract: "How fast microbatches are made, and how long training waits for them.")

  @OptionGroup var model: BenchModelOptions
  @Option(help: "Compute threads.")
  var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(help: "Steps of the run that are measured, after two that are not.")
  var steps = 6
  @OptionGroup var output: BenchOutputOptions

  func validate() throws { try atLeastOne(("--threads", threads), ("--steps", steps)) }

  func run() throws {
    let benchmark = DataBenchmark(
      model: model.value, threads: threads, steps: steps)
    try output.measure { try benchmark.run(scope: $0, progress: $1) }
  }
}
