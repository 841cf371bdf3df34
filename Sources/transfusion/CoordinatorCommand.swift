import ArgumentParser
import Configuration
import Coordinator
import Foundation

struct CoordinatorCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "coordinator", abstract: "Schedule a run over workers.", subcommands: [CoordinatorStart.self])
}

struct CoordinatorStart: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "start",
    abstract: "Start a run's coordinator and wait for parallelism.workers workers to join.",
    discussion: """
      Started again on a run directory, it goes on from the newest valid checkpoint. SIGTERM or SIGINT finishes the
      step, writes a checkpoint and exits 0.
      """)

  @OptionGroup var configuration: ConfigurationOptions
  @OptionGroup var runOptions: RunDirectoryOption
  @OptionGroup var listening: ListeningOptions
  @OptionGroup var keys: ListeningKeyOptions
  @OptionGroup var tracing: TraceOptions
  @OptionGroup var parent: ParentOptions
  @OptionGroup var logging: LoggingOptions

  func run() async throws {
    parent.watch()
    let launcher = RunLauncher(
      configuration: RunLauncher.absolute(try configuration.load()), runDirectory: runOptions.run,
      listen: listening.listen, keys: keys, trace: tracing.trace,
      log: logging.logger("coordinator"))
    try await launcher.run(resume: .newest)
  }
}

struct RunDirectoryOption: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp("Run directory: journal, checkpoints, resolved configuration, logs.", valueName: "dir"))
  var run: String
}

struct ListeningOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp("Where workers and status clients connect; port * takes a free one.", valueName: "address"))
  var listen = "tcp://127.0.0.1:7070"
}

struct TrainCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract: "Train with a coordinator and N workers on this host.",
    discussion: """
      On a run directory that exists it goes on from the newest valid checkpoint. SIGTERM or SIGINT finishes the step,
      writes a checkpoint and exits 0; go on with `transfusion resume`.
      """)

  @OptionGroup var configuration: ConfigurationOptions
  @OptionGroup var runOptions: RunDirectoryOption

  @Option(name: .long, help: "Worker processes.")
  var workers: Int

  @OptionGroup var resources: WorkerResourceOptions

  @Option(
    name: .long,
    help: ArgumentHelp("Where status clients connect; by default a free port on loopback.", valueName: "address"))
  var listen = "tcp://127.0.0.1:*"

  @OptionGroup var keys: ListeningKeyOptions
  @OptionGroup var tracing: TraceOptions
  @OptionGroup var logging: LoggingOptions

  func validate() throws { try LocalWorkerCount.check(workers) }

  func run() async throws {
    // The command line's own number of workers is what the run waits for; a contradicting --set is checked all the same.
    var loaded = try configuration.load()
    loaded.parallelism.workers = workers
    let launcher = RunLauncher(
      configuration: RunLauncher.absolute(loaded), runDirectory: runOptions.run, listen: listen, keys: keys,
      localWorkers: workers, resources: resources, trace: tracing.trace, log: logging.logger("coordinator"))
    try await launcher.run(resume: .newest)
  }
}

struct ResumeCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "resume",
    abstract: "Go on from the newest valid checkpoint, on any number of workers and any cut into stages.",
    discussion: """
      Only keys that do not define the result can be changed with --set (parallelism, checkpoint, validation, cluster,
      run.stop_after, data.directory with the same data). Steps that were committed after the checkpoint are computed
      again, and the journal checks that they come out the same.
      """)

  @Argument(help: "Run directory.", completion: .directory)
  var directory: String

  @Option(name: .long, help: "Worker processes on this host; by default as many as the run had.")
  var workers: Int?

  @Flag(name: .long, help: "Start no worker here; wait for parallelism.workers to join.")
  var noLocalWorkers = false

  @Option(name: .long, help: ArgumentHelp("Go back to the checkpoint of this step.", valueName: "step"))
  var from: UInt64?

  @Option(
    name: .long, parsing: .singleValue,
    help: ArgumentHelp("Override one key; may be repeated.", valueName: "key.path=value"))
  var set: [String] = []

  @OptionGroup var resources: WorkerResourceOptions

  @Option(
    name: .long,
    help: ArgumentHelp(
      "Where workers and status clients connect; by default a free port on loopback.", valueName: "address"))
  var listen = "tcp://127.0.0.1:*"

  @OptionGroup var keys: ListeningKeyOptions
  @OptionGroup var tracing: TraceOptions
  @OptionGroup var logging: LoggingOptions

  func validate() throws {
    if let workers {
      try LocalWorkerCount.check(workers)
      if noLocalWorkers { throw ValidationError("--workers and --no-local-workers exclude each other") }
    }
  }

  func run() async throws {
    let run = RunDirectory(directory)
    guard run.hasJournal else { throw CoordinatorError.notARun(path: directory) }
    var loaded = try RunConfiguration.load(file: run.configuration, overrides: set)
    if let workers { loaded.parallelism.workers = workers }
    let launcher = RunLauncher(
      configuration: RunLauncher.absolute(loaded), runDirectory: directory, listen: listen,
      keys: keys, localWorkers: noLocalWorkers ? 0 : loaded.parallelism.workers,
      resources: resources, trace: tracing.trace, log: logging.logger("coordinator"))
    try await launcher.run(resume: from.map { .step($0) } ?? .newest)
  }
}

enum LocalWorkerCount {
  static func check(_ workers: Int) throws {
    guard (1...256).contains(workers) else {
      throw ValidationError("--workers is \(workers); it must be in 1...256: a run needs at least one worker")
    }
  }
}
