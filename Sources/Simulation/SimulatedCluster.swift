import ClusterModel
import ControlPlane
import Wire

/// One run of one seed: the production machines behind a virtual clock, network and disk, in one thread.
///
/// Everything is a function of the scenario: events lie in one queue by time, random draws come from the seed, and no
/// dictionary is walked unsorted. The shells here mirror `Coordinator/CoordinatorLoop` and `Worker/WorkerProcess`.
final class SimulatedCluster {
  enum Event {
    case startCoordinator(host: Int, insists: Bool)
    case coordinatorOpens(Int)
    case coordinatorTick(Int)
    case toCoordinator(Int, Envelope, Connection)
    case journalDone(Int)
    case lateFlush(Int, SimulatedJournal.Transaction)
    case manifestDone(Int)
    case farewell(Int, left: Int)
    case startWorker(slot: Int)
    case workerStarts(Int)
    case workerTick(Int)
    case connect(Int)
    case toWorker(Int, Envelope)
    case frame(Frame)
    case engine(Int, epoch: UInt64)
    case partWritten(Int, PartJob)
    case fault(Int)
    case faultEnds(Int)
    case resumeWorker(Int)
    case resumeCoordinator(Int)
    case heal
  }

  let scenario: Scenario
  let reference: StandInModel.Reference
  var now: UInt64 = 0
  var queue = EventQueue<Event>()
  var random: SimulatedRandom
  var network: SimulatedNetwork
  var journal = SimulatedJournal()
  var store = SimulatedStore()
  var disk = SimulatedDisk()
  /// Hosts that compute wrongly, and for how long.
  var wrongUntil: [Int: UInt64] = [:]
  var workers: [WorkerProcess] = []
  /// The live process of each host.
  var workerAt: [Int?]
  var coordinators: [CoordinatorProcess] = []
  /// Who holds the run directory's lock.
  var lockHolder: Int?
  /// Whom the coordinator's address leads to.
  var listener: Int?
  var workerOf: [Connection: Int] = [:]
  var monitor: SimulationMonitor
  var isHealed = false
  /// Who gives what to whom in the newest generation.
  var knownPieces: (generation: Generation, prepare: Prepare, pieces: [StateTransfer.Piece])?
  var isDone = false
  /// When everything has been repaired.
  let healTime: UInt64
  /// When the run must have ended.
  let deadline: UInt64
  var eventCount = 0
  /// Of everything that has happened.
  var fingerprint: UInt64 = 0
  /// What has happened, when it is wanted.
  var trace: [String]?

  init(_ scenario: Scenario, isTraced: Bool = false) {
    self.scenario = scenario
    reference = scenario.model.reference(steps: scenario.steps)
    random = SimulatedRandom(seed: mixed(scenario.seed, 2))
    network = SimulatedNetwork(latency: scenario.latency, jitter: scenario.jitter)
    workerAt = Array(repeating: nil, count: scenario.workers + scenario.extraSlots)
    monitor = SimulationMonitor()
    trace = isTraced ? [] : nil
    let second = VirtualTime.second
    let last = scenario.faults.map(\.time).max() ?? 0
    let end = scenario.faults.map(\.end).max() ?? 0
    healTime = min(end, last + 8 * second) + second
    deadline = healTime + 120 * second + 8 * scenario.faultHorizon
  }

  // MARK: The loop

  func run() -> SimulationResult {
    let ms = VirtualTime.millisecond
    queue.push(.startCoordinator(host: scenario.coordinatorHost(0), insists: true), at: 0)
    for slot in 0..<scenario.workers { queue.push(.startWorker(slot: slot), at: random.number(0, 100 * ms)) }
    for (index, fault) in scenario.faults.enumerated() { queue.push(.fault(index), at: fault.time) }
    queue.push(.heal, at: healTime)
    while !isDone, monitor.violation == nil {
      guard let (time, event) = queue.pop() else {
        fail("nothing is under way and the run has not ended")
        break
      }
      now = time
      eventCount += 1
      guard time <= deadline else {
        fail("the run has not ended \(VirtualTime.text(time - healTime)) after the last fault: \(whereItStands)")
        break
      }
      handle(event)
    }
    return SimulationResult(
      seed: scenario.seed, violation: monitor.violation, trace: trace ?? [], faults: scenario.faults,
      virtualMicroseconds: now, events: eventCount, fingerprint: fingerprint,
      generations: journal.contents.newestGeneration.number)
  }

  private var whereItStands: String {
    var lines: [String] = []
    for coordinator in coordinators where coordinator.isAlive {
      guard let machine = coordinator.machine else {
        lines.append("\(coordinator.name) is opening")
        continue
      }
      let state = machine.state
      var line = "\(coordinator.name) of \(state.generation) is \(machine.phaseName) at step \(state.step)"
      line += ", \(state.committed) committed"
      for view in machine.workerViews { line += ", \(view.worker) \(view.state) \(view.phase)" }
      lines.append(line)
    }
    return lines.isEmpty ? "no coordinator lives" : lines.joined(separator: "; ")
  }

  private func handle(_ event: Event) {
    switch event {
    case .startCoordinator(let host, let insists):
      stamp(1, host)
      startCoordinator(on: host, insists: insists)
    case .coordinatorOpens(let index):
      stamp(2, index)
      let coordinator = coordinators[index]
      if coordinator.isPaused { coordinator.deferred.append(event) } else if coordinator.isAlive { open(coordinator) }
    case .coordinatorTick(let index):
      let coordinator = coordinators[index]
      if coordinator.isPaused { coordinator.deferred.append(event) } else if coordinator.isAlive { tick(coordinator) }
    case .toCoordinator(let index, let envelope, let connection):
      arrive(envelope, of: connection, at: index, event)
    case .journalDone(let index):
      stamp(4, index)
      let coordinator = coordinators[index]
      if coordinator.isPaused {
        coordinator.deferred.append(event)
      } else if coordinator.isAlive {
        finishTransaction(coordinator)
      }
    case .lateFlush(let index, let transaction):
      if coordinators[index].isAlive { _ = perform(transaction, for: coordinators[index]) }
    case .manifestDone(let index):
      stamp(5, index)
      let coordinator = coordinators[index]
      if coordinator.isPaused {
        coordinator.deferred.append(event)
      } else if coordinator.isAlive {
        finishManifest(coordinator)
      }
    case .farewell(let index, let left): sayFarewell(coordinators[index], left: left)
    case .startWorker(let slot):
      stamp(6, slot)
      startWorker(in: slot)
    case .workerStarts, .workerTick, .connect, .toWorker, .engine, .partWritten: handleWorker(event)
    case .frame(let frame): arrive(frame)
    case .fault(let index):
      stamp(7, index)
      begin(scenario.faults[index], index)
    case .faultEnds(let index):
      stamp(8, index)
      end(scenario.faults[index], index)
    case .resumeWorker(let index): resume(workers[index])
    case .resumeCoordinator(let index): resume(coordinators[index])
    case .heal: heal()
    }
  }

  private func handleWorker(_ event: Event) {
    let index: Int =
      switch event {
      case .workerStarts(let index), .workerTick(let index), .connect(let index), .toWorker(let index, _),
        .engine(let index, _), .partWritten(let index, _):
        index
      default: preconditionFailure("not a worker's event")
      }
    let worker = workers[index]
    guard worker.isAlive else { return }
    guard !worker.isPaused else {
      worker.deferred.append(event)
      return
    }
    switch event {
    case .workerStarts: begin(worker)
    case .workerTick: tick(worker)
    case .connect: connect(worker)
    case .toWorker(_, let envelope): receive(envelope, at: worker)
    case .engine(_, let epoch): wake(worker, epoch)
    case .partWritten(_, let job): finishPart(worker, job)
    default: break
    }
  }

  // MARK: What is told

  func stamp(_ kind: UInt64, _ number: Int) {
    fingerprint = mixed(fingerprint ^ now, kind << 32 | UInt64(truncatingIfNeeded: number))
  }

  @inline(__always) func note(_ text: @autoclosure () -> String) {
    guard trace != nil else { return }
    trace?.append("\(VirtualTime.text(now))  \(text())")
  }

  /// An invariant does not hold.
  func fail(_ reason: String) {
    guard monitor.violation == nil else { return }
    note("VIOLATION: \(reason)")
    monitor.violation = SimulationViolation(time: now, reason: reason)
  }
}

/// The state of the disk that journal and checkpoints lie on.
struct SimulatedDisk {
  /// Faults under way.
  var full = 0
  var lying = 0
  var slowness: UInt64 = 1
  var isOff = false
}

/// What a simulation has found.
public struct SimulationResult: Sendable {
  public var seed: UInt64
  public var violation: SimulationViolation?
  /// Empty unless it was asked for.
  public var trace: [String]
  public var faults: [Fault]
  public var virtualMicroseconds: UInt64
  public var events: Int
  /// Equal for equal courses of events.
  public var fingerprint: UInt64
  public var generations: UInt64
}

/// An invariant that did not hold.
public struct SimulationViolation: Hashable, Sendable {
  /// Virtual microseconds.
  public var time: UInt64
  public var reason: String
}
