import ClusterModel
import Compute
import Configuration
import ControlPlane
import Foundation
import Logging
import TransfusionModel
import Transport
import Wire

public struct WorkerOptions: Sendable {
  /// The coordinator's address.
  public var address: String
  /// The address of this host's relay to it, which has its keys; nil for a connection of this worker's own.
  public var relay: String?
  public var threads: Int
  /// Bytes of tensors that the compute core may hold.
  public var memoryLimitBytes: Int
  /// Compute thread i stays on `processors[i]`; nil: wherever the system puts it.
  public var processors: [Int]?
  /// Where peers reach this worker; nil binds a free port on the interface that reaches the coordinator.
  public var dataListen: String?
  /// With them everything is encrypted; who is at the other end is certain.
  public var keys: ClientKeys?
  /// Plain text outside loopback.
  public var allowPlaintext: Bool
  /// How long to wait for the coordinator's first answer.
  public var joinTimeoutSeconds: Double = 60
  /// How long a member waits for a coordinator that has gone, to be started again.
  public var coordinatorTimeoutSeconds: Double = 600

  public init(
    address: String, threads: Int, memoryLimitBytes: Int, processors: [Int]? = nil, dataListen: String? = nil,
    keys: ClientKeys? = nil, allowPlaintext: Bool = false
  ) {
    self.address = address
    self.threads = threads
    self.memoryLimitBytes = memoryLimitBytes
    self.processors = processors
    self.dataListen = dataListen
    self.keys = keys
    self.allowPlaintext = allowPlaintext
  }

  var machineSettings: WorkerMachineSettings {
    var settings = WorkerMachineSettings()
    settings.tickSeconds = Double(WorkerProcess.pollMilliseconds) / 1_000
    settings.joinTicks = UInt64(max(1, joinTimeoutSeconds / settings.tickSeconds))
    settings.lostTicks = UInt64(max(1, coordinatorTimeoutSeconds / settings.tickSeconds))
    return settings
  }
}

/// How a worker's run ended.
public enum WorkerOutcome: Sendable, Equatable {
  case done
  case requeue(reason: String)
}

/// The worker's shell: moves messages between the coordinator, ``WorkerMachine``, which makes every decision of the
/// protocol, and the compute thread.
public final class WorkerProcess {
  private let options: WorkerOptions
  private let log: Logger
  private let stopCount: @Sendable () -> Int
  private let client: ControlClient
  private let dataPlane: DataPlane
  private let engine: WorkerEngine
  private var machine: WorkerMachine
  private var ending: WorkerEnding?
  private let clock = ContinuousClock()

  static let pollMilliseconds = 50

  /// - Parameter stopCount: how often a stop was asked for so far. The first lets the worker leave once others hold what
  ///   it holds; a second ends it at once.
  public init(_ options: WorkerOptions, log: Logger, stopCount: @escaping @Sendable () -> Int) throws {
    self.options = options
    self.log = log
    self.stopCount = stopCount
    machine = WorkerMachine(settings: options.machineSettings)
    client =
      if let relay = options.relay { try ControlClient(address: relay, isRelay: true) } else {
        try ControlClient(address: options.address, keys: options.keys, allowPlaintext: options.allowPlaintext)
      }
    dataPlane = try DataPlane(
      bind: options.dataListen ?? Endpoint.binding(toward: options.address), keys: options.keys?.pair,
      allowPlaintext: options.allowPlaintext,
      // The coordinator knows who hangs and ends waits by a new generation; a wait as such may be long.
      limits: DataPlaneLimits(receiveTimeoutSeconds: 7 * 86_400), note: { [log] in log.debug("\($0)") })
    engine = WorkerEngine(options: options, dataPlane: dataPlane, waker: client.waker) { [log] copy in
      log.debug("\(copy)")
    }
  }

  /// Works until the coordinator says stop.
  public func run() throws -> WorkerOutcome {
    defer { engine.stop() }
    let hello = try engine.introduce(dataEndpoint: dataPlane.endpoint)
    log.debug("saying hello to \(options.address)")
    try feed(.started(hello))
    let tick = Duration.milliseconds(Self.pollMilliseconds)
    var nextTick = clock.now + tick
    var timesAsked = 0
    while true {
      let wait = max(.zero, nextTick - clock.now)
      for envelope in try client.poll(timeoutMilliseconds: Int(wait / .milliseconds(1)) + 1) {
        try feed(.message(envelope))
      }
      // Nothing will come of waiting: we are not let in, or not any more.
      if let refusal = client.refusal { throw WorkerError.notLetIn(refusal) }
      for event in engine.outbox.drain() {
        if case .done(.updated(let updated), _, _) = event { log.debug("\(PhaseLine(updated))") }
        try feed(event)
      }
      while timesAsked < stopCount(), ending == nil {
        timesAsked += 1
        try feed(.stopRequested(reason: "asked to stop"))
      }
      if clock.now >= nextTick {
        // One tick however late: silence in which this thread did not listen counts against nobody.
        nextTick = clock.now + tick
        try feed(.tick(engine.progress.heartbeat))
      }
      if let ending { return try outcome(ending) }
    }
  }

  private func feed(_ event: WorkerEvent) throws {
    for directive in machine.handle(event) {
      switch directive {
      case .send(let envelope): send(envelope)
      case .configure(let welcome, let run): try engine.configure(welcome, run: run)
      case .interrupt(let reason): engine.interrupt(machine.state.generation, reason: reason)
      case .perform(let order, let me, let number, let generation):
        engine.commands.push(WorkerEngine.Command(order: order, me: me, number: number, generation: generation))
      case .answerClock(let sent):
        let answer = Traced(clock: .init(sentNanoseconds: sent, workerNanoseconds: engine.trace.now))
        try feed(.noted(.traced(answer), generation: machine.state.generation))
      case .log(let level, let text): log.log(level: Logger.Level(rawValue: level.rawValue) ?? .info, "\(text)")
      case .finish(let ending): self.ending = ending
      }
    }
  }

  private func send(_ envelope: Envelope) {
    do { try client.send(envelope) } catch {
      // Not fatal by itself: if the coordinator is gone its silence will say so.
      log.debug("could not send to the coordinator: \(error)")
    }
  }

  private func outcome(_ ending: WorkerEnding) throws(WorkerError) -> WorkerOutcome {
    switch ending {
    case .done: return .done
    case .requeue(let reason): return .requeue(reason: reason)
    case .stopped(let reason): throw .stopped(reason: reason)
    case .refused(let reason): throw .refused(reason: reason)
    case .unreachable(let seconds):
      throw .unreachable(address: options.address, seconds: seconds, failedHandshakes: client.failedHandshakes)
    case .coordinatorLost(let seconds): throw .coordinatorLost(address: options.address, seconds: seconds)
    }
  }
}
