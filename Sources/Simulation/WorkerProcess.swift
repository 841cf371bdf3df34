import ClusterModel
import ControlPlane
import Wire

/// A worker that was started: its machine, its data plane, its compute thread.
final class WorkerProcess {
  let index: Int
  let slot: Int
  var machine: WorkerMachine
  var isAlive = true
  /// Gone without a word: the host lost power.
  var isSilent = false
  var isPaused = false
  var deferred: [SimulatedCluster.Event] = []
  var clockPercent: UInt64 = 100
  /// Whether another one is started in its place when it ends, and after how long.
  var successorAfter: UInt64?

  // The control connection.
  var coordinator: Int?
  var connection = Connection("")
  var connectionCount = 0
  /// What waits for a connection.
  var unsent: [Envelope] = []

  // The data plane.
  var generation = Generation(0)
  var isInterrupted = true
  var me = WorkerID(0)
  var peers: [WorkerID: Int] = [:]
  var inbox: [UInt64: (arrival: Int, values: [UInt64])] = [:]
  var arrivals = 0
  /// Frames of generations that it has not entered yet.
  var early: [Frame] = []

  // The compute thread.
  var commands: [EngineCommand] = []
  var task: EngineTask?
  var lastCommand: EngineCommand?
  /// The thread is busy, or asleep, until an event of this number.
  var epoch: UInt64 = 0
  var isBusy = false
  var hangUntil: UInt64 = 0
  var progress: UInt64 = 0
  var phase = "idle"
  var assignment: Assignment?
  /// The state that it trains.
  var live: HeldTensors?
  /// In which `live` was prepared.
  var liveGeneration = Generation(0)
  /// Sums of the step after `live`, of the tensors whose moments it holds.
  var sums: [UInt64]?
  var copies: [HeldTensors] = []
  /// What it held before the generation that is beginning.
  var carried: HeldTensors?
  var skips = SkippedSamples()
  /// Planted: how far its sample stream is off.
  var sampleOffset: UInt64 = 0

  init(index: Int, slot: Int) {
    self.index = index
    self.slot = slot
    machine = WorkerMachine()
  }
  var name: String { "process \(index)" }
  /// What it kept, and what it held before.
  var allCopies: [HeldTensors] { copies + [carried].compactMap { $0 } }
  var standing: Standing {
    Standing(
      live: live?.held, hasSums: sums != nil, copies: allCopies.map(\.held), generation: liveGeneration)
  }
  func enter(_ phase: String) {
    self.phase = phase
    progress += 1
  }
}

/// Tensors of one state, where they are held; the others are zero.
struct HeldTensors {
  var step: Step
  var parameters: [Range<Int>]
  var moments: [Range<Int>]
  var values: StandInModel.Values
  var held: HeldState { HeldState(step: step, parameters: parameters, moments: moments) }
}

/// One tensor frame between two workers.
struct Frame {
  enum Kind: UInt64 {
    case activation = 1
    case activationGradient
    case partialSum
    case parameters
    case validationActivation
    case state
    case copy
  }
  var kind: Kind
  var generation: Generation
  var step: Step
  /// Processes.
  var sender: Int
  var receiver: Int
  var from: WorkerID
  var values: [UInt64]

  static func key(_ kind: Kind, _ step: Step, from: WorkerID) -> UInt64 {
    kind.rawValue << 56 | UInt64(from.number) << 32 | step
  }
}

extension SimulatedCluster {
  static let workerTickMicroseconds: UInt64 = 50_000

  // MARK: Life

  func startWorker(in slot: Int) {
    guard !isDone, workerAt[slot] == nil else { return }
    let worker = WorkerProcess(index: workers.count, slot: slot)
    workers.append(worker)
    workerAt[slot] = worker.index
    note("\(worker.name) starts on host \(slot)")
    queue.push(.workerStarts(worker.index), at: now + random.number(10_000, 300_000))
  }

  func begin(_ worker: WorkerProcess) {
    scheduleConnect(worker, isSlow: false)
    queue.push(.workerTick(worker.index), at: now + Self.workerTickMicroseconds)
    let hello = Hello(
      worker: nil, host: "h\(worker.slot)", processID: Int32(worker.index + 1), threads: 1,
      memoryLimitBytes: scenario.memoryLimitBytes, deviceFingerprint: "cpu",
      gigaflopsPerSecond: scenario.gigaflops[worker.slot], dataEndpoint: "d\(worker.index)")
    feed(.started(hello), to: worker)
  }

  func feed(_ event: WorkerEvent, to worker: WorkerProcess) {
    for directive in worker.machine.handle(event) { obey(directive, worker) }
  }

  func tick(_ worker: WorkerProcess) {
    queue.push(.workerTick(worker.index), at: now + Self.workerTickMicroseconds * 100 / worker.clockPercent)
    feed(
      .tick(
        Heartbeat(
          progress: worker.progress, step: worker.live?.step ?? 0, phase: worker.phase, microbatchesPerSecond: 0,
          memoryBytes: 0)), to: worker)
  }

  func receive(_ envelope: Envelope, at worker: WorkerProcess) {
    if trace != nil {
      if case .coordinatorHeartbeat = envelope.message {
      } else {
        note(
          "\(worker.name) (\(worker.machine.state.worker?.description ?? "new")) <- \(SimulationText.envelope(envelope))"
        )
      }
    }
    if scenario.planted.contains(.obeyOldCoordinator), envelope.generation < worker.machine.state.generation {
      var newer = envelope
      newer.generation = worker.machine.state.generation
      newer.order = envelope.order == 0 ? 0 : worker.machine.state.order + 1
      return feed(.message(newer), to: worker)
    }
    if scenario.planted.contains(.repeatOrders), envelope.order != 0, envelope.order == worker.machine.state.order,
      envelope.generation == worker.generation, let last = worker.task?.command ?? worker.lastCommand
    {
      worker.commands.append(last)
      return advance(worker)
    }
    if scenario.planted.contains(.loseAnswers), case .coordinatorHeartbeat = envelope.message {
      var other = envelope
      other.message = .coordinatorHeartbeat(CoordinatorHeartbeat())
      return feed(.message(other), to: worker)
    }
    feed(.message(envelope), to: worker)
  }

  private func obey(_ directive: WorkerDirective, _ worker: WorkerProcess) {
    switch directive {
    case .send(let envelope): send(envelope, from: worker)
    case .interrupt: interrupt(worker)
    case .perform(let order, let me, let number, let generation):
      worker.commands.append(EngineCommand(order: order, me: me, number: number, generation: generation))
      advance(worker)
    case .finish(let ending):
      note("\(worker.name) ends: \(ending)")
      let comesBack: Bool =
        switch ending {
        case .done: false
        case .requeue, .stopped, .refused, .unreachable, .coordinatorLost: true
        }
      let after = worker.successorAfter ?? random.number(200_000, 1_500_000)
      end(worker, successorAfter: comesBack && after != .max ? after : nil)
    case .log(_, let text): note("\(worker.name): \(text)")
    case .configure, .answerClock: break
    }
  }

  /// The process is gone.
  func end(_ worker: WorkerProcess, successorAfter: UInt64?) {
    guard worker.isAlive else { return }
    worker.isAlive = false
    worker.deferred = []
    worker.commands = []
    worker.task = nil
    worker.inbox = [:]
    worker.early = []
    worker.live = nil
    worker.copies = []
    worker.carried = nil
    if workerAt[worker.slot] == worker.index { workerAt[worker.slot] = nil }
    note("\(worker.name) on host \(worker.slot) is gone")
    // Once everything is repaired nobody stays away.
    let after = successorAfter ?? (isHealed && worker.slot < scenario.workers ? VirtualTime.second : nil)
    if let after { queue.push(.startWorker(slot: worker.slot), at: now + after) }
  }

  // MARK: The control connection

  func scheduleConnect(_ worker: WorkerProcess, isSlow: Bool) {
    // While the coordinator before lives, its connections do, too: workers follow one by one.
    queue.push(.connect(worker.index), at: now + (isSlow ? random.number(0, 4_000_000) : random.number(1_000, 500_000)))
  }

  func connect(_ worker: WorkerProcess) {
    guard let listener, worker.coordinator != listener else { return }
    let host = coordinators[listener].host
    if let end = network.blockedUntil(from: worker.slot, to: host) ?? network.blockedUntil(from: host, to: worker.slot)
    {
      queue.push(.connect(worker.index), at: max(end, now) + random.number(10_000, 300_000))
      return
    }
    worker.coordinator = listener
    worker.connectionCount += 1
    worker.connection = Connection("\(worker.index).\(worker.connectionCount)")
    workerOf[worker.connection] = worker.index
    let unsent = worker.unsent
    worker.unsent = []
    for envelope in unsent { send(envelope, from: worker) }
  }

  private func send(_ envelope: Envelope, from worker: WorkerProcess) {
    guard let index = worker.coordinator else {
      if worker.unsent.count < 64 { worker.unsent.append(envelope) }
      return
    }
    let envelope = throughBytes(envelope)
    let to = coordinators[index].host
    for _ in 0..<(network.isRepeated(&random) ? 2 : 1) {
      guard let delay = network.delay(from: worker.slot, to: to, now: now, &random) else { continue }
      queue.push(.toCoordinator(index, envelope, worker.connection), at: now + delay)
    }
  }

  /// Mirrors `CoordinatorLoop.send`.
  func send(_ envelope: Envelope, to connection: Connection, from coordinator: CoordinatorProcess) {
    guard coordinator.peers.contains(connection), let index = workerOf[connection] else { return }
    let worker = workers[index]
    let isGone = !worker.isAlive || worker.connection != connection
    if isGone {
      if worker.isSilent || network.blockedUntil(from: worker.slot, to: coordinator.host) != nil { return }
      coordinator.pending.append(.connectionRefused(connection))
      return
    }
    let envelope = throughBytes(envelope)
    for _ in 0..<(network.isRepeated(&random) ? 2 : 1) {
      guard let delay = network.delay(from: coordinator.host, to: worker.slot, now: now, &random) else { continue }
      stamp(9, index)
      queue.push(.toWorker(index, envelope), at: now + delay)
    }
  }

  private func throughBytes(_ envelope: Envelope) -> Envelope {
    guard scenario.encodesMessages else { return envelope }
    do { return try Envelope(decoding: envelope.encoded()) } catch {
      fail("a message does not survive its bytes: \(error) in \(SimulationText.envelope(envelope))")
      return envelope
    }
  }

  // MARK: Checkpoint parts

  func finishPart(_ worker: WorkerProcess, _ job: PartJob) {
    let message: ControlMessage
    let part = SimulatedStore.Part(tensors: job.tensors, values: job.values, isFlushed: disk.lying == 0)
    let isRoom = disk.full == 0 && !disk.isOff
    if isRoom, store.rename(part, to: job.file, step: job.step) {
      if disk.lying == 0 { store.flush() }
      let digest = SimulatedStore.Part.text(part.digest)
      message = .checkpointWritten(
        CheckpointPart(
          step: job.step, file: job.file, sizeBytes: part.sizeBytes, sha256: digest,
          tensors: job.tensors.map { .init(path: "/parameters/\($0)", shape: [3], sha256: digest) }))
      note("\(worker.name) has written \(job.file) of step \(job.step)")
    } else {
      message = .checkpointFailed(step: job.step, reason: isRoom ? "it is committed already" : "no space is left")
      note("\(worker.name) cannot write \(job.file) of step \(job.step)")
    }
    feed(.noted(message, generation: job.generation), to: worker)
  }
}

/// A snapshot on its way to the disk.
struct PartJob {
  var step: Step
  var generation: Generation
  var file: String
  var tensors: [Int]
  var values: [UInt64]
}
