import ClusterModel
import Compute
import Configuration
import Foundation
import Logging
import TransfusionModel
import Transport
import Wire

public struct WorkerOptions: Sendable {
  /// The coordinator's address.
  public var address: String
  public var threads: Int
  /// Bytes of tensors that the compute core may hold.
  public var memoryLimitBytes: Int
  /// Keep each compute thread on one processor.
  public var pin: Bool
  /// Where peers reach this worker; nil binds a free port on the interface that reaches the coordinator.
  public var dataListen: String?
  /// With them everything is encrypted; who is at the other end is certain.
  public var keys: ClientKeys?
  /// Plain text outside loopback.
  public var allowPlaintext: Bool
  /// How long to wait for the coordinator's first answer.
  public var joinTimeoutSeconds: Double = 60
  /// Silence after which the coordinator counts as lost.
  public var coordinatorSilenceSeconds: Double = 30

  public init(
    address: String, threads: Int, memoryLimitBytes: Int, pin: Bool = false, dataListen: String? = nil,
    keys: ClientKeys? = nil, allowPlaintext: Bool = false
  ) {
    self.address = address
    self.threads = threads
    self.memoryLimitBytes = memoryLimitBytes
    self.pin = pin
    self.dataListen = dataListen
    self.keys = keys
    self.allowPlaintext = allowPlaintext
  }
}

/// How a worker's run ended.
public enum WorkerOutcome: Sendable, Equatable {
  case done
  case requeue(reason: String)
}

/// The worker's shell: joins a coordinator, moves messages between it and the compute thread, beats.
///
/// It contains no protocol decisions: what to compute next is the coordinator's, how is the executor's.
public final class WorkerProcess {
  private let options: WorkerOptions
  private let log: Logger
  private let stopRequested: @Sendable () -> Bool
  private let client: ControlClient
  private let dataPlane: DataPlane
  private let engine: WorkerEngine
  private let clock = ContinuousClock()

  private var runID = RunID("")
  private var generation = Generation(0)
  private var worker: WorkerID?
  private var saidLeaving = false

  static let heartbeatSeconds = 0.25
  static let pollMilliseconds = 50

  public init(_ options: WorkerOptions, log: Logger, stopRequested: @escaping @Sendable () -> Bool) throws {
    self.options = options
    self.log = log
    self.stopRequested = stopRequested
    client = try ControlClient(address: options.address, keys: options.keys, allowPlaintext: options.allowPlaintext)
    dataPlane = try DataPlane(
      bind: options.dataListen ?? Endpoint.binding(toward: options.address), keys: options.keys?.pair,
      allowPlaintext: options.allowPlaintext,
      // The coordinator knows who hangs and ends waits by `stop`; a wait as such may be long.
      limits: DataPlaneLimits(receiveTimeoutSeconds: 7 * 86_400), note: { log.notice("\($0)") })
    engine = WorkerEngine(options: options, dataPlane: dataPlane, waker: client.waker)
  }

  /// Works until the coordinator says stop.
  public func run() throws -> WorkerOutcome {
    defer { engine.stop() }
    let hello = try engine.introduce(dataEndpoint: dataPlane.endpoint)
    send(.hello(hello))
    let start = clock.now
    var lastHeard = clock.now
    var lastBeat = clock.now
    var joined = false
    while true {
      for envelope in try client.poll(timeoutMilliseconds: Self.pollMilliseconds) {
        // Before the welcome the run is unknown; afterwards every message must be of this run and of no
        // older generation.
        guard envelope.sender == .coordinator, !joined || envelope.run == runID, envelope.generation >= generation
        else { continue }
        lastHeard = clock.now
        if let outcome = try handle(envelope) { return outcome }
        if worker != nil { joined = true }
      }
      if let refusal = client.refusal { throw WorkerError.notLetIn(refusal) }
      for message in engine.outbox.drain() {
        send(message)
        if case .updated(let updated) = message { log.debug("\(PhaseLine(updated))") }
      }

      let now = clock.now
      if !joined {
        let waited = (now - start) / .seconds(1)
        if waited > options.joinTimeoutSeconds {
          throw WorkerError.unreachable(
            address: options.address, seconds: waited, failedHandshakes: client.failedHandshakes)
        }
        if stopRequested() { return .requeue(reason: "asked to stop before joining") }
        continue
      }
      let silence = (now - lastHeard) / .seconds(1)
      if silence > (saidLeaving ? min(10, options.coordinatorSilenceSeconds) : options.coordinatorSilenceSeconds) {
        throw WorkerError.coordinatorLost(address: options.address, seconds: silence)
      }
      if stopRequested(), !saidLeaving {
        saidLeaving = true
        send(.leaving(reason: "asked to stop"))
      }
      if (now - lastBeat) / .seconds(1) >= Self.heartbeatSeconds {
        lastBeat = now
        send(.heartbeat(engine.progress.heartbeat))
      }
    }
  }

  private func send(_ message: ControlMessage) {
    let sender: Envelope.Sender = worker.map { .worker($0) } ?? .candidate
    do {
      try client.send(Envelope(run: runID, generation: generation, sender: sender, message: message))
    } catch {
      // Not fatal by itself: if the coordinator is gone its silence will say so.
      log.debug("could not send to the coordinator: \(error)")
    }
  }

  private func handle(_ envelope: Envelope) throws -> WorkerOutcome? {
    switch envelope.message {
    case .welcome(let welcome):
      guard worker == nil else { return nil }
      worker = welcome.worker
      runID = envelope.run
      generation = envelope.generation
      try engine.configure(welcome, run: envelope.run)
      log.info("joined run \(runID.text.prefix(8)) as \(welcome.worker)")
    case .refused(let reason):
      throw WorkerError.refused(reason: reason)
    case .prepare(let prepare):
      generation = envelope.generation
      engine.commands.push(.prepare(prepare, envelope.generation))
    case .runStep(let step): engine.commands.push(.run(step))
    case .update(let update): engine.commands.push(.update(update))
    case .evaluate(let step): engine.commands.push(.evaluate(step))
    case .checkpointCommitted(let step): log.debug("checkpoint of step \(step) committed")
    case .coordinatorHeartbeat: break
    case .clockQuestion(let sent):
      send(.traced(Traced(clock: .init(sentNanoseconds: sent, workerNanoseconds: engine.trace.now))))
    case .stop(let stop):
      log.info("stopping: \(stop.reason)")
      switch stop.disposition {
      case .done: return .done
      case .requeue: return .requeue(reason: stop.reason)
      case .failed: throw WorkerError.stopped(reason: stop.reason)
      }
    case .hello, .ready, .reduced, .updated, .evaluated, .checkpointWritten, .checkpointFailed, .heartbeat, .leaving,
      .failed, .traced, .statusRequest, .status:
      log.warning("the coordinator sent a message that only others send; ignored")
    }
    return nil
  }
}
