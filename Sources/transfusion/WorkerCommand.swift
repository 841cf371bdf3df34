import ArgumentParser
import Foundation
import Worker

struct WorkerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "worker", abstract: "Compute for a coordinator.", subcommands: [WorkerJoin.self])
}

struct WorkerJoin: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "join",
    abstract: "Join a run: take a stage and a share of the microbatches, and work until the coordinator says stop.",
    discussion: """
      A worker may join at any time, and leave with SIGTERM or SIGINT: it finishes the step, hands what it holds to \
      the others, and the run goes on without it. The last worker's leaving saves a checkpoint and stops the run. A \
      second signal ends it at once.

      When the coordinator goes, the worker keeps what it holds and waits for it to be started again.
      """)

  @Argument(help: "The coordinator's address, for example tcp://127.0.0.1:7070.")
  var address: String

  @OptionGroup var resources: WorkerResourceOptions

  @Option(
    name: .long, help: ArgumentHelp("Where other workers reach this one; by default a free port.", valueName: "address")
  )
  var dataListen: String?

  @Option(name: .long, help: ArgumentHelp("How long to wait for the coordinator.", valueName: "seconds"))
  var joinTimeout: Double = 60

  @Option(
    name: .long,
    help: ArgumentHelp(
      "How long to keep the state and wait for a coordinator that has gone to be started again.", valueName: "seconds"))
  var coordinatorTimeout: Double = 600

  @OptionGroup var keys: ConnectingKeyOptions

  @OptionGroup var parent: ParentOptions

  @OptionGroup var logging: LoggingOptions

  func validate() throws {
    guard address.contains("://") else {
      throw ValidationError("'\(address)' is no address; expected for example tcp://127.0.0.1:7070")
    }
    guard joinTimeout > 0 else { throw ValidationError("--join-timeout must be positive") }
    guard coordinatorTimeout > 0 else { throw ValidationError("--coordinator-timeout must be positive") }
  }

  func run() async throws {
    parent.watch()
    let log = logging.logger("worker")
    let stop = StopRequest(
      announcement: "Leaving after this step, once others hold what this worker holds. Signal again to leave at once.")
    var options = WorkerOptions(
      address: address, threads: resources.effectiveThreads, memoryLimitBytes: resources.effectiveMemoryLimit,
      pin: resources.pin, dataListen: dataListen, keys: try keys.choose(address: address, log: log),
      allowPlaintext: keys.insecurePlaintext)
    options.joinTimeoutSeconds = joinTimeout
    options.coordinatorTimeoutSeconds = coordinatorTimeout
    let outcome = try await stop.watching { [options] in
      try await onThread("control") {
        try WorkerProcess(options, log: log) { stop.count }.run()
      }
    }
    if case .requeue(let reason) = outcome, !stop.isRequested { throw CommandFailure(.requeue, reason) }
  }
}

struct WorkerResourceOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Compute threads of each worker; by default all processors, shared by local workers.", valueName: "n"))
  var threads: Int?

  @Option(
    name: .long,
    help: ArgumentHelp(
      "Memory that each worker's tensors may take; by default 80 % of the host's, shared by local workers.",
      valueName: "bytes"))
  var memoryLimit: Int?

  @Flag(name: .long, help: "Keep each compute thread on one processor.")
  var pin = false

  func validate() throws {
    if let threads, !(1...4096).contains(threads) { throw ValidationError("--threads must be in 1...4096") }
    if let memoryLimit, memoryLimit < 1 << 20 { throw ValidationError("--memory-limit must be at least 1048576 bytes") }
  }

  var effectiveThreads: Int { threads ?? ProcessInfo.processInfo.activeProcessorCount }
  var effectiveMemoryLimit: Int { memoryLimit ?? Int(Double(ProcessInfo.processInfo.physicalMemory) * 0.8) }

  /// The same for one of `count` workers on this host.
  func share(of count: Int) -> (threads: Int, memoryLimit: Int) {
    (
      threads ?? max(1, ProcessInfo.processInfo.activeProcessorCount / count),
      memoryLimit ?? effectiveMemoryLimit / count
    )
  }
}
