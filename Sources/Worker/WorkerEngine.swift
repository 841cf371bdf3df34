import Checkpoints
import ClusterModel
import Collectives
import Compute
import Configuration
import ControlPlane
import Foundation
import Tracing
import TrainingData
import TransfusionModel
import Transport
import Wire

/// The compute thread, the checkpoint writer and the keeper of copies: orders in, what happened out.
///
// Safe because `executor`, `device`, `setup` and `source` are touched by the compute thread alone once it runs;
// queues, progress and the waker are made for sharing.
final class WorkerEngine: @unchecked Sendable {
  struct Command: Sendable {
    var order: WorkerOrder
    var me: WorkerID
    var number: UInt64
    var generation: Generation
  }
  private struct Setup {
    var welcome: Welcome
    var run: RunID
    var configuration: RunConfiguration
  }

  let commands = BlockingQueue<Command>()
  /// What the control thread is to know.
  let outbox = BlockingQueue<WorkerEvent>()
  let progress: WorkerProgress
  /// On when the welcome asked for it.
  let trace = TraceRecorder()

  private let options: WorkerOptions
  private let dataPlane: DataPlane
  private let waker: Waker
  private var device: CPUDevice?
  private var setup: Setup?
  private var executor: StageExecutor?
  /// In which the executor was made.
  private var prepared = Generation(0)
  private var source: MicrobatchSource?
  /// What was held when the generation was prepared: kept until everybody is ready, because the generation may end
  /// before.
  private var carried: [StateSnapshot] = []
  private var reportedPageFaults: UInt64 = 0
  private let writer: CheckpointWriter
  private let keeper: CopyKeeper
  /// For what this worker owns: copies and checkpoints.
  private let snapshots: SnapshotBuffers
  private var thread: Thread?
  private let finished = DispatchSemaphore(value: 0)

  /// - Parameter note: gets what may be measured in the log; any thread.
  init(
    options: WorkerOptions, dataPlane: DataPlane, waker: Waker, note: @escaping @Sendable (CopyLine) -> Void
  ) {
    self.options = options
    self.dataPlane = dataPlane
    self.waker = waker
    snapshots = SnapshotBuffers(in: LentTensors(dataPlane))
    let outbox = outbox
    let trace = trace
    let progress = WorkerProgress { dataPlane.counters.mappedBytes }
    self.progress = progress
    writer = CheckpointWriter(trace: trace) { message, generation in
      // The span goes first: after the last checkpoint's report nobody listens any more.
      if trace.isOn { outbox.push(.noted(.traced(Traced(trace.drain())), generation: generation)) }
      outbox.push(.noted(message, generation: generation))
      waker.wake()
    }
    keeper = CopyKeeper { copy, generation in
      note(copy)
      outbox.push(.noted(.copied(step: copy.step), generation: generation))
      waker.wake()
    }
  }

  /// Makes the device, measures it, and says who we are.
  func introduce(dataEndpoint: String) throws -> Hello {
    let device = try CPUDevice(
      threads: options.threads, memoryLimitBytes: options.memoryLimitBytes, processors: options.processors,
      sharedMemory: LentTensors(dataPlane))
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
    thread.stackSize = 16 << 20
    self.thread = thread
    thread.start()
  }

  /// Ends what is done and what was to be done for older generations than this one. Any thread.
  func interrupt(_ generation: Generation, reason: String) {
    _ = commands.drain()
    // In this order: whoever enters a generation in between sees the one or the other.
    progress.overtake(by: generation)
    dataPlane.interrupt(reason: reason)
  }

  /// Ends all threads; a checkpoint part that is being written is finished first.
  func stop() {
    progress.overtake(by: Generation(.max))
    dataPlane.interrupt(reason: "the worker is stopping")
    commands.close(discarding: true)
    if thread != nil { finished.wait() }
    keeper.stop()
    writer.stop()
    dataPlane.close()
  }

  private func post(_ event: WorkerEvent) {
    outbox.push(event)
    waker.wake()
  }

  private func work() {
    ThreadName.set("compute")
    device?.tieCaller()
    while true {
      let waited = trace.now
      guard let command = commands.pop() else { break }
      if let step = command.order.waitedForStep { trace.record(.barrier, step: step, from: waited) }
      progress.begin(command.generation)
      do {
        try progress.checkGeneration()
        if let answer = try perform(command) {
          post(.done(answer, order: command.number, generation: command.generation))
        }
        postTrace(command)
      } catch {
        post(
          .failed(
            FailureKind(error), reason: "\(error)", order: command.number, generation: command.generation))
      }
    }
    executor?.stop()
    executor = nil
  }

  private func perform(_ command: Command) throws -> ControlMessage? {
    switch command.order {
    case .standing, .prepare: break
    // Everybody was ready: the generation has begun.
    case .runStep, .update, .evaluate, .save: carried = []
    }
    switch command.order {
    case .standing:
      progress.enter("idle", step: executor?.heldStep ?? 0)
      return .standing(standing)
    case .prepare(let prepare): return .ready(try begin(prepare, command))
    case .runStep(let step): return .reduced(try current().run(step: step))
    case .update(let update):
      let executor = try current()
      var updated = try executor.update(update)
      if update.checkpoint || update.copy {
        let before = CopyLine.threadSeconds
        let snapshot = try executor.snapshot(step: executor.heldStep, in: snapshots)
        let seconds = CopyLine.threadSeconds - before
        if update.checkpoint { writer.write(snapshot) }
        if update.copy, let setup {
          keeper.begin(
            snapshot, snapshotSeconds: seconds, me: command.me, generation: command.generation, plan: executor.plan,
            model: setup.configuration.model, link: dataPlane)
        }
      }
      updated.phases = executor.phases
      return .updated(updated)
    case .evaluate(let step): return .evaluated(try current().evaluate(step: step))
    case .save(let step):
      let executor = try current()
      guard executor.heldStep == step else {
        throw WorkerError.step(reason: "asked to save state \(step) while holding state \(executor.heldStep)")
      }
      writer.write(try executor.snapshot(step: step, in: snapshots))
      return nil
    }
  }

  /// Hands what was recorded to the coordinator; after the report that others wait for.
  private func postTrace(_ command: Command) {
    guard trace.isOn, command.order.isTraced else { return }
    var report = Traced(trace.drain())
    let faults = ProcessMemory.pageFaults
    report.pageFaults = faults - reportedPageFaults
    reportedPageFaults = faults
    post(.noted(.traced(report), generation: command.generation))
  }

  private func current() throws -> StageExecutor {
    guard let executor else { throw WorkerError.step(reason: "asked to compute before a place was prepared") }
    return executor
  }

  // MARK: Generations

  private var standing: Standing {
    Standing(
      live: executor.flatMap { $0.isComplete ? $0.holding : nil }, hasSums: executor?.summed != nil,
      copies: (keeper.copies.all + carried).map { copy in
        let (parameters, moments) = copy.tensors
        return HeldState(step: copy.step, parameters: parameters, moments: moments)
      }, generation: prepared)
  }

  private func begin(_ prepare: Prepare, _ command: Command) throws -> Ready {
    guard let setup, let device else { throw WorkerError.step(reason: "prepared before the welcome") }
    let (configuration, me, step) = (setup.configuration, command.me, prepare.fromStep)
    progress.enter("loading", step: step)
    let peers = Dictionary(prepare.peers.map { ($0.worker, $0.dataEndpoint) }) { first, _ in first }
    // The state may be brought forward now: a worker that still reads what this one lent for a step is told so.
    dataPlane.takeBackLent()
    let (pieces, given) = try give(prepare, configuration.model)
    executor?.stop()
    executor = nil
    let publicKeys = Dictionary(
      prepare.peers.compactMap { peer in PublicKey(bytes: peer.publicKey).map { (peer.worker, $0) } }
    ) { first, _ in first }
    try dataPlane.enter(
      run: setup.run, generation: command.generation, me: me, peers: peers, publicKeys: publicKeys)
    // `enter` has cleared an interruption that was meant for this very generation.
    do { try progress.checkGeneration() } catch {
      dataPlane.interrupt(reason: "\(error)")
      throw error
    }
    let exchange = try pieces.map { try StateExchange(step: step, me: me, pieces: $0, from: given, link: dataPlane) }
    var source = try self.source ?? configuration.microbatchSource()
    do throws(SkippedSamplesError) {
      source.skips = try SkippedSamples(prepare.skipped, perStep: source.samplesPerStep)
    } catch {
      throw WorkerError.step(reason: "\(error)")
    }
    self.source = source
    if let place = prepare.plan.place(of: me) {
      let executor = try StageExecutor(
        configuration: configuration, plan: prepare.plan, place: place, fromStep: step, device: device,
        link: dataPlane, source: source, progress: progress, trace: trace)
      // Before anything that can fail: whoever replaces it stops its data thread.
      self.executor = executor
      prepared = command.generation
      executor.isComplete = false
      let store = CheckpointStore(directory: setup.welcome.runDirectory + "/checkpoints")
      writer.begin(
        store: store,
        // A writer of an earlier generation may still be at work: no two write one file.
        file: String(format: "worker-%04d-g%llu.h5", prepare.plan.rank(of: me) ?? 0, command.generation.number),
        generation: command.generation)
      switch prepare.origin {
      case .seed: try executor.initialise()
      case .checkpoint: try executor.load(step: step, from: store)
      case .members: try exchange?.receive(into: executor, progress: progress)
      }
      executor.isComplete = true
      progress.enter("barrier", step: step)
    } else {
      // A spare holds nothing and waits; one that leaves gives away what it held.
      try exchange?.receive(into: nil, progress: progress)
      progress.enter("idle", step: step)
    }
    return Ready(
      step: step, dataFingerprint: source.dataset.fingerprint, memoryBytes: progress.memoryBytes)
  }

  /// What this worker gives and keeps of the state that the generation begins with, in host memory: its device's
  /// memory is about to be used for something else.
  private func give(_ prepare: Prepare, _ model: ModelConfiguration) throws
    -> (pieces: [StateTransfer.Piece]?, given: [StateSnapshot])
  {
    guard case .members(let holders) = prepare.origin else { return (nil, []) }
    if let executor, let norm = prepare.norm, standing.madeBySums(norm) != nil {
      try executor.updateOwned(
        Update(step: executor.heldStep, gradientSumOfSquares: norm.sumOfSquares, checkpoint: false))
    }
    guard
      let pieces = StateTransfer.pieces(
        held: holders, needed: StateNeeds.needs(of: prepare.plan, model, withBackups: true))
    else {
      throw WorkerError.step(reason: "asked to begin with state \(prepare.fromStep), parts of which nobody holds")
    }
    if let executor, executor.isComplete {
      let holding = executor.holding
      let held = Set(holding.parameters.joined())
      carry(
        try executor.snapshot(in: SnapshotBuffers(in: LentTensors(dataPlane))) {
          $0.part != .parameters || held.contains($0.tensor)
        },
        into: prepare.fromStep)
    }
    // The freshest last: it counts where a tensor is there twice.
    let given = (keeper.copies.all + carried.reversed()).filter { $0.step == prepare.fromStep }
    return (pieces, given)
  }
}

extension WorkerEngine {
  /// Keeps what is held at the beginning of a generation. What was kept for the one before was promised as well, when that
  /// one has done no step: it stays as far as it has something that the newest has not.
  private func carry(_ newest: StateSnapshot, into step: Step) {
    var kept = newest.step == step ? [newest] : []
    var keys = Set(kept.flatMap { $0.entries.map(\.key) })
    for older in carried where older.step == step && older.entries.contains(where: { !keys.contains($0.key) }) {
      kept.append(older)
      keys.formUnion(older.entries.map(\.key))
    }
    carried = kept
  }
}

extension WorkerOrder {
  /// The step for whose sake the compute thread waited for this order.
  var waitedForStep: Step? {
    switch self {
    case .standing, .prepare, .save: nil
    case .runStep(let step), .evaluate(let step): step
    case .update(let update): update.step
    }
  }
  /// Whether spans are reported after it.
  var isTraced: Bool {
    switch self {
    case .update, .evaluate: true
    case .standing, .prepare, .runStep, .save: false
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
      case is DataPlaneError, is TransportError, WorkerError.overtaken: .peerLost
      default: .software
      }
  }
}
