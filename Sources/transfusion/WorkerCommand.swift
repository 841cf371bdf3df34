import ArgumentParser
import Foundation
import Logging
import Transport
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

      With --workers several join from this host, a process each, over one connection: they share its processors and \
      memory, and its key; each counts in parallelism.workers. One that dies is lost by itself, and not started again; \
      with this process all of them end. Lines of the log begin with the process that wrote them.
      """)

  @Argument(help: "The coordinator's address, for example tcp://127.0.0.1:7070.")
  var address: String

  @Option(name: .long, help: ArgumentHelp("Workers on this host, behind one connection.", valueName: "n"))
  var workers = 1

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

  /// Set in the processes that --workers starts: where their connection ends.
  @Option(name: .long, help: .hidden) var relay: String?

  func validate() throws {
    guard (1...HostWorkers.limit).contains(workers) else {
      throw ValidationError("--workers must be in 1...\(HostWorkers.limit)")
    }
    if workers > 1 {
      if resources.pinTo != nil { throw ValidationError("--pin-to is for one worker") }
      if let dataListen, !dataListen.hasSuffix(":*") {
        throw ValidationError(
          "--data-listen is one address, but there are \(workers) workers: end it in :* for free ports")
      }
    }
    guard address.contains("://") else {
      throw ValidationError("'\(address)' is no address; expected for example tcp://127.0.0.1:7070")
    }
    _ = try resources.shares(of: workers)
    guard joinTimeout > 0 else { throw ValidationError("--join-timeout must be positive") }
    guard coordinatorTimeout > 0 else { throw ValidationError("--coordinator-timeout must be positive") }
  }

  func run() async throws {
    parent.watch()
    let log = logging.logger("worker", mark: relay == nil ? "" : "[\(ProcessInfo.processInfo.processIdentifier)] ")
    if workers > 1 { return try await joinSeveral(log) }
    let announcement =
      "Leaving after this step, once others hold what this worker holds. Signal again to leave at once."
    let stop = StopRequest(announcement: relay == nil ? announcement : nil, isForwarded: relay != nil)
    let share = try resources.shares(of: 1)[0]
    var options = WorkerOptions(
      address: address, threads: share.threads, memoryLimitBytes: share.memoryLimit, processors: share.processors,
      dataListen: dataListen, keys: try keys.choose(address: address, log: log),
      allowPlaintext: keys.insecurePlaintext)
    options.relay = relay
    options.joinTimeoutSeconds = joinTimeout
    options.coordinatorTimeoutSeconds = coordinatorTimeout
    let outcome = try await stop.watching { [options] in
      try await onThread("control") {
        try WorkerProcess(options, log: log) { stop.count }.run()
      }
    }
    if case .requeue(let reason) = outcome, !stop.isRequested { throw CommandFailure(.requeue, reason) }
  }

  private func joinSeveral(_ log: Logger) async throws {
    let stop = StopRequest(
      announcement:
        "These workers leave after this step, once others hold what they hold. Signal again to leave at once.")
    let shares = try resources.shares(of: workers)
    var arguments = [
      "worker", "join", address, "--join-timeout", "\(joinTimeout)", "--coordinator-timeout", "\(coordinatorTimeout)",
      "--log-level",
      logging.logLevel.rawValue, "--exit-with-parent",
    ]
    if let dataListen { arguments += ["--data-listen", dataListen] }
    if let key = keys.key { arguments += ["--key", key] }
    if let coordinatorKey = keys.coordinatorKey { arguments += ["--coordinator-key=\(coordinatorKey)"] }
    if keys.insecurePlaintext { arguments.append("--insecure-plaintext") }
    let chosen = try keys.choose(address: address, log: log)
    try await stop.watching { [arguments] in
      try await onThread("relay") {
        let folder = try HostWorkers.Folder()
        defer { folder.remove() }
        let relay = try ControlRelay(
          address: address, listen: folder.address, keys: chosen, allowPlaintext: keys.insecurePlaintext)
        let host = try HostWorkers(
          arguments: shares.map { arguments + $0.arguments }, joinTimeout: joinTimeout, relay: relay, log: log)
        try host.run { stop.count }
      }
    }
  }
}
