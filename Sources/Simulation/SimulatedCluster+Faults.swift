import ClusterModel
import ControlPlane

extension SimulatedCluster {
  private func live(_ slot: Int) -> WorkerProcess? {
    workerAt.indices.contains(slot) ? workerAt[slot].map { workers[$0] } : nil
  }
  /// The coordinator that faults happen to.
  private var acting: CoordinatorProcess? {
    (listener ?? lockHolder).map { coordinators[$0] } ?? coordinators.last { $0.isAlive }
  }

  func begin(_ fault: Fault, _ index: Int) {
    guard !isDone, !isHealed else { return }
    note("FAULT \(fault.kind)")
    let end = min(fault.end, healTime)
    switch fault.kind {
    case .killWorker(let slot, let back):
      if let worker = live(slot) { self.end(worker, successorAfter: back) }
    case .powerOffWorker(let slot, let back):
      guard let worker = live(slot) else { return }
      worker.isSilent = true
      self.end(worker, successorAfter: back)
    case .pauseWorker(let slot, _):
      guard let worker = live(slot), !worker.isPaused else { return }
      worker.isPaused = true
      queue.push(.resumeWorker(worker.index), at: end)
    case .computeWrongly(let slot, _): wrongUntil[slot] = max(wrongUntil[slot, default: 0], end)
    case .hangWorker(let slot, _): live(slot)?.hangUntil = end
    case .drainWorker(let slot, let back):
      guard let worker = live(slot), !worker.isPaused else { return }
      worker.successorAfter = back ?? .max
      feed(.stopRequested(reason: "asked to stop"), to: worker)
    case .joinWorker(let slot): startWorker(in: slot)
    case .workerClock(let slot, let percent, _):
      live(slot)?.clockPercent = percent
      queue.push(.faultEnds(index), at: end)
    case .killCoordinator(let back):
      guard let coordinator = acting else { return }
      kill(coordinator)
      queue.push(.startCoordinator(host: coordinator.host, insists: true), at: now + back)
    case .pauseCoordinator:
      guard let coordinator = acting, !coordinator.isPaused else { return }
      coordinator.isPaused = true
      queue.push(.resumeCoordinator(coordinator.index), at: end)
    case .usurpCoordinator(_, let after):
      guard let coordinator = acting, !coordinator.isPaused else { return }
      coordinator.isPaused = true
      coordinator.isSupervised = false
      lockHolder = nil
      queue.push(.resumeCoordinator(coordinator.index), at: end)
      queue.push(
        .startCoordinator(
          host: coordinator.host + 1 == scenario.hostCount ? coordinator.host - 1 : coordinator.host + 1, insists: true),
        at: now + after)
    case .secondCoordinator:
      queue.push(.startCoordinator(host: scenario.coordinatorHost(1), insists: false), at: now)
    case .drainCoordinator:
      guard let coordinator = acting, !coordinator.isPaused, coordinator.machine != nil else { return }
      coordinator.inbox.append((.stopRequested(reason: "asked to stop"), nil))
      pump(coordinator)
    case .coordinatorClock(let percent, _):
      acting?.clockPercent = percent
      queue.push(.faultEnds(index), at: end)
    case .partition(let hosts, let isOneWay, _):
      network.partitions.append(.init(fault: index, hosts: hosts, isOneWay: isOneWay, end: end))
      queue.push(.faultEnds(index), at: end)
    case .badNetwork(let loss, let repeats, let delay, _):
      network.troubles.append(.init(fault: index, lossPercent: loss, repeatPercent: repeats, delay: delay))
      queue.push(.faultEnds(index), at: end)
    case .slowLink(let host, let factor, _):
      network.slow.append(.init(fault: index, host: host, factor: factor))
      queue.push(.faultEnds(index), at: end)
    case .resetConnection(let slot):
      guard let worker = live(slot), !worker.isPaused, worker.coordinator != nil else { return }
      worker.coordinator = nil
      worker.connection = Connection("")
      scheduleConnect(worker, isSlow: false)
    case .diskFull:
      disk.full += 1
      queue.push(.faultEnds(index), at: end)
    case .slowDisk(let factor, _):
      disk.slowness = factor
      queue.push(.faultEnds(index), at: end)
    case .lyingDisk:
      disk.lying += 1
      queue.push(.faultEnds(index), at: end)
    case .powerOffStorage(let back): losePower(backAfter: back, index)
    case .bitRot:
      let good = store.committed.filter { store.folders[$0]?.isDamaged == false }
      guard good.count > 1, let newest = good.last else { return }
      note("a bit of the checkpoint of step \(newest) flips")
      store.rot(newest)
    }
  }

  /// Whether any host of a replica computes wrongly now. A replica that is alone never does: its machines cannot be told
  /// from bad samples.
  func isWrong(_ place: Assignment, _ worker: WorkerProcess) -> Bool {
    guard !wrongUntil.isEmpty, place.plan.replicaCount > 1 else { return false }
    return place.plan.places[place.place.replica].contains { member in
      let slot = member == worker.me ? worker.slot : worker.peers[member].map { workers[$0].slot }
      return slot.map { wrongUntil[$0, default: 0] > now } ?? false
    }
  }

  /// Journal, checkpoints and the coordinator beside them are off for a while.
  private func losePower(backAfter back: UInt64, _ index: Int) {
    for coordinator in coordinators where coordinator.isAlive {
      coordinator.transaction = nil
      kill(coordinator)
    }
    store.losePower()
    if journal.losePower() {
      note("the journal has lost what the disk had not kept: \(journal.contents.steps.count) steps are left")
      forget()
    }
    disk.isOff = true
    queue.push(.faultEnds(index), at: now + back)
  }

  func end(_ fault: Fault, _ index: Int) {
    note("END OF \(fault.kind)")
    switch fault.kind {
    case .workerClock(let slot, _, _): live(slot)?.clockPercent = 100
    case .coordinatorClock: for coordinator in coordinators { coordinator.clockPercent = 100 }
    case .partition: network.partitions.removeAll { $0.fault == index }
    case .badNetwork: network.troubles.removeAll { $0.fault == index }
    case .slowLink: network.slow.removeAll { $0.fault == index }
    case .diskFull: disk.full -= 1
    case .slowDisk: disk.slowness = 1
    case .lyingDisk: disk.lying -= 1
    case .powerOffStorage:
      disk.isOff = false
      queue.push(.startCoordinator(host: scenario.coordinatorHost(0), insists: true), at: now)
    default: break
    }
  }

  func resume(_ worker: WorkerProcess) {
    guard worker.isAlive, worker.isPaused else { return }
    note("\(worker.name) wakes up")
    worker.isPaused = false
    let deferred = worker.deferred
    worker.deferred = []
    for event in deferred { queue.push(event, at: now) }
  }

  func resume(_ coordinator: CoordinatorProcess) {
    guard coordinator.isAlive, coordinator.isPaused else { return }
    note("\(coordinator.name) wakes up")
    coordinator.isPaused = false
    let deferred = coordinator.deferred
    coordinator.deferred = []
    for event in deferred { queue.push(event, at: now) }
    pump(coordinator)
  }

  /// Everything is repaired: what lives must end.
  func heal() {
    note("everything is repaired")
    isHealed = true
    network.partitions = []
    network.troubles = []
    network.slow = []
    disk = SimulatedDisk()
    wrongUntil = [:]
    for worker in workers where worker.isAlive {
      worker.clockPercent = 100
      worker.hangUntil = 0
      resume(worker)
    }
    for coordinator in coordinators where coordinator.isAlive {
      coordinator.clockPercent = 100
      resume(coordinator)
    }
    for slot in 0..<scenario.workers where workerAt[slot] == nil {
      queue.push(.startWorker(slot: slot), at: now + random.number(0, 300_000))
    }
    if !coordinators.contains(where: \.isAlive) {
      queue.push(.startCoordinator(host: scenario.coordinatorHost(0), insists: true), at: now)
    }
  }
}
