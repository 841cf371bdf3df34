import Checkpoints
import ClusterModel
import Collectives
import Compute
import Configuration
import Foundation
import Tracing
import TrainingData
import TransfusionModel
import Transport
import Wire

extension DataPlane: Link {}

/// The compute thread and the checkpoint writer: commands in, messages for the coordinator out.
///
// Safe because `executor`, `device`, `setup` are touched by the compute thread alone once it runs; queues,
// progress and the waker are made for sharing.
final class WorkerEngine: @unchecked Sendable {
  enum Command: Sendable {
    case prepare(Prepare, Generation)
    case run(Step)
    case update(Update)
    case evaluate(Step)
  }
  private struct Setup {
    var welcome: Welcome
    var run: RunID
    var configuration: RunConfiguration
  }

  let commands = BlockingQueue<Command>()
  /// What the control thread sends next.
  let outbox = BlockingQueue<ControlMessage>()
  let progress = WorkerProgress()
  /// On when the welcome asked for it.
  let trace = TraceRecorder()

  private let options: WorkerOptions
  private let dataPlane: DataPlane
  private let waker: Waker
  private var device: CPUDevice?
  private var setup: Setup?
  private var executor: StageExecutor?
  private var reportedPageFaults: UInt64 = 0
  private let writer: CheckpointWriter
  private let snapshots = SnapshotBuffers()
  private var thread: Thread?
  private let finished = DispatchSemaphore(value: 0)

  init(options: WorkerOptions, dataPlane: DataPlane, waker: Waker) {
    self.options = options
    self.dataPlane = dataPlane
    self.waker = waker
    let outbox = outbox
    let trace = trace
    writer = CheckpointWriter(snapshots: snapshots, trace: trace) { message in
      // The span goes first: after the last checkpoint's report nobody listens any more.
      if trace.isOn { outbox.push(.traced(Traced(trace.drain()))) }
      outbox.push(message)
      waker.wake()
    }
  }

  /// Makes the device, measures it, and says who we are.
  func introduce(dataEndpoint: String) throws -> Hello {
    let device = try CPUDevice(
      threads: options.threads, memoryLimitBytes: options.memoryLimitBytes, pin: options.pin)
    self.device = device
    return Hello(
      worker: nil, host: ProcessInfo.processInfo.hostName, processID: ProcessInfo.processInfo.processIdentifier,
      threads: UInt32(options.threads), memoryLimitBytes: UInt64(options.memoryLimitBytes),
      deviceFingerprint: device.fingerprint,
      gigaflopsPerSecond: try CPUDevice.measureGigaflops(threads: options.threads), dataEndpoint: dataEndpoint)
  }

  /// Takes the run's configuration and starts the compute thread.
  func configure(_ welcome: Welcome, run: RunID) throws {
    let configuration = try RunConfiguration.parse(welcome.configuration, file: "the coordinator's configuration")
    setup = Setup(welcome: welcome, run: run, configuration: configuration)
    if welcome.tracing { trace.turnOn() }
    let thread = Thread { [self] in
      work()
      finished.signal()
    }
    thread.name = "compute"
    thread.stackSize = 16 << 20
    self.thread = thread
    thread.start()
  }

  /// Ends both threads; a checkpoint part that is being written is finished first.
  func stop() {
    dataPlane.interrupt(reason: "the worker is stopping")
    commands.close(discarding: true)
    if thread != nil { finished.wait() }
    writer.stop()
    dataPlane.close()
  }

  private func post(_ message: ControlMessage) {
    outbox.push(message)
    waker.wake()
  }

  private func work() {
    while true {
      let waited = trace.now
      guard let command = commands.pop() else { break }
      if let step = command.waitedForStep { trace.record(.barrier, step: step, from: waited) }
      do {
        try perform(command)
      } catch {
        post(.failed(kind: FailureKind(error), reason: "\(error)"))
      }
    }
    executor?.stop()
    executor = nil
  }

  private func perform(_ command: Command) throws {
    switch command {
    case .prepare(let prepare, let generation): try begin(prepare, generation)
    case .run(let step):
      post(.reduced(try current().run(step: step)))
    case .update(let update):
      let executor = try current()
      var updated = try executor.update(update)
      if update.checkpoint {
        let snapshot = try executor.snapshot(step: update.step + 1)
        updated.phases = executor.phases
        writer.write(snapshot)
      }
      post(.updated(updated))
      postTrace()
    case .evaluate(let step):
      post(.evaluated(try current().evaluate(step: step)))
      postTrace()
    }
  }

  /// Hands what was recorded to the coordinator; after the report that others wait for.
  private func postTrace() {
    guard trace.isOn else { return }
    var report = Traced(trace.drain())
    let faults = ProcessMemory.pageFaults
    report.pageFaults = faults - reportedPageFaults
    reportedPageFaults = faults
    post(.traced(report))
  }

  private func current() throws -> StageExecutor {
    guard let executor else { throw WorkerError.step(reason: "asked to compute before a place was prepared") }
    return executor
  }

  private func begin(_ prepare: Prepare, _ generation: Generation) throws {
    guard let setup, let device else { throw WorkerError.step(reason: "prepared before the welcome") }
    let configuration = setup.configuration
    executor?.stop()
    executor = nil
    progress.enter("loading", step: prepare.fromStep)
    let peers = Dictionary(prepare.peers.map { ($0.worker, $0.dataEndpoint) }) { first, _ in first }
    let publicKeys = Dictionary(
      prepare.peers.compactMap { peer in PublicKey(bytes: peer.publicKey).map { (peer.worker, $0) } }
    ) { first, _ in first }
    try dataPlane.enter(
      run: setup.run, generation: generation, me: setup.welcome.worker, peers: peers, publicKeys: publicKeys)
    let source = try configuration.microbatchSource()
    guard let place = prepare.plan.place(of: setup.welcome.worker) else {
      // A spare holds nothing and waits.
      progress.enter("idle", step: prepare.fromStep)
      post(.ready(Ready(step: prepare.fromStep, dataFingerprint: source.dataset.fingerprint, memoryBytes: 0)))
      return
    }
    let executor = try StageExecutor(
      configuration: configuration, plan: prepare.plan, place: place, fromStep: prepare.fromStep, device: device,
      link: dataPlane, source: source, progress: progress, trace: trace, snapshots: snapshots)
    // Before anything that can fail: whoever replaces it stops its data thread.
    self.executor = executor
    let store = CheckpointStore(directory: setup.welcome.runDirectory + "/checkpoints")
    writer.begin(store: store, file: String(format: "worker-%04d.h5", prepare.plan.rank(of: setup.welcome.worker) ?? 0))
    if prepare.fromStep == 0 {
      try executor.initialise()
    } else {
      try executor.load(step: prepare.fromStep, from: store)
    }
    progress.enter("barrier", step: prepare.fromStep)
    post(
      .ready(
        Ready(
          step: prepare.fromStep, dataFingerprint: source.dataset.fingerprint,
          memoryBytes: UInt64(ProcessMemory.residentBytes))))
  }
}

extension WorkerEngine.Command {
  /// The step for whose sake the compute thread waited for this command.
  var waitedForStep: Step? {
    switch self {
    case .prepare: nil
    case .run(let step), .evaluate(let step): step
    case .update(let update): update.step
    }
  }
}

extension Traced {
  init(_ recorded: (spans: [TraceSpan], dropped: UInt64)) {
    self.init(spans: recorded.spans, dropped: recorded.dropped)
  }
}

extension FailureKind {
  /// What an error of the compute thread means for the run.
  init(_ error: any Error) {
    self =
      switch error {
      case is DataError, is DataMismatch, WorkerError.data: .data
      case DeviceError.library: .software
      case is DeviceError, is ConfigurationError, is ModelConfigurationError: .configuration
      case is CheckpointError: .storage
      case is DataPlaneError, is TransportError: .peerLost
      default: .software
      }
  }
}
