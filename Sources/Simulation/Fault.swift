/// One thing that goes wrong, at a virtual time. A simulation is a scenario and a list of these.
public struct Fault: Hashable, Sendable, CustomStringConvertible {
  public enum Kind: Hashable, Sendable {
    /// `kill -9`; the host's system closes the connections.
    case killWorker(slot: Int, backAfter: UInt64?)
    /// The host is gone: nobody hears of it.
    case powerOffWorker(slot: Int, backAfter: UInt64?)
    case pauseWorker(slot: Int, duration: UInt64)
    /// Losses of replicas that a host takes part in are no numbers, and their sums are wrong.
    case computeWrongly(slot: Int, duration: UInt64)
    /// The compute thread stands still while the worker beats.
    case hangWorker(slot: Int, duration: UInt64)
    /// SIGTERM: the worker drains, and another one comes in its place after a while.
    case drainWorker(slot: Int, backAfter: UInt64?)
    /// A worker beyond those that were expected.
    case joinWorker(slot: Int)
    /// The clock of a process runs at another speed, in percent.
    case workerClock(slot: Int, percent: UInt64, duration: UInt64)
    case killCoordinator(backAfter: UInt64)
    case pauseCoordinator(duration: UInt64)
    /// While the coordinator is paused its host loses the lock, and another one is started elsewhere.
    case usurpCoordinator(duration: UInt64, after: UInt64)
    /// A second coordinator on the same directory while the first one lives.
    case secondCoordinator
    case drainCoordinator
    case coordinatorClock(percent: UInt64, duration: UInt64)
    /// Nothing passes between these hosts and the others; one way only when `isOneWay` (from them).
    case partition(hosts: [Int], isOneWay: Bool, duration: UInt64)
    /// Control messages are lost, repeated and held up.
    case badNetwork(lossPercent: Int, repeatPercent: Int, delay: UInt64, duration: UInt64)
    /// All that leaves or reaches a host takes so many times as long.
    case slowLink(host: Int, factor: UInt64, duration: UInt64)
    /// A connection to the coordinator breaks and comes back under another name.
    case resetConnection(slot: Int)
    case diskFull(duration: UInt64)
    case slowDisk(factor: UInt64, duration: UInt64)
    /// What is written is said to be on disk and is not.
    case lyingDisk(duration: UInt64)
    /// The host of the run directory loses power: unfinished writes are torn, what was lied about is lost.
    case powerOffStorage(backAfter: UInt64)
    /// A bit flips in a file of the newest checkpoint, when there is another one.
    case bitRot
  }
  /// Microseconds.
  public var time: UInt64
  public var kind: Kind

  public var description: String { "\(VirtualTime.text(time)) \(kind)" }

  /// When its effects are over, retries left aside.
  var end: UInt64 {
    switch kind {
    case .pauseWorker(_, let duration), .hangWorker(_, let duration), .computeWrongly(_, let duration),
      .pauseCoordinator(let duration), .usurpCoordinator(let duration, _), .diskFull(let duration),
      .lyingDisk(let duration):
      time + duration
    case .workerClock(_, _, let duration), .coordinatorClock(_, let duration), .partition(_, _, let duration),
      .badNetwork(_, _, _, let duration), .slowLink(_, _, let duration), .slowDisk(_, let duration):
      time + duration
    case .killWorker(_, let back), .powerOffWorker(_, let back), .drainWorker(_, let back): time + (back ?? 0)
    case .killCoordinator(let back), .powerOffStorage(let back): time + back
    case .joinWorker, .secondCoordinator, .drainCoordinator, .resetConnection, .bitRot: time
    }
  }
}

enum VirtualTime {
  static let millisecond: UInt64 = 1_000
  static let second: UInt64 = 1_000_000
  /// "12.345678 s"
  static func text(_ microseconds: UInt64) -> String {
    let fraction = String(microseconds % second)
    return "\(microseconds / second)." + String(repeating: "0", count: 6 - fraction.count) + fraction + " s"
  }
}

extension Fault {
  /// What a seed does to a cluster: none in some runs, many at once in others.
  static func draw(_ random: inout SimulatedRandom, scenario: Scenario) -> [Fault] {
    let second = VirtualTime.second
    let ms = VirtualTime.millisecond
    let counts = [0, 1, 2, 3, 4, 6, 8, 10, 14, 20]
    let count = random.pick(counts)
    /// Some runs are about few kinds of fault, so that each is met alone, too.
    let favourites = (0..<3).map { _ in random.below(24) }
    let isNarrow = random.chance(0.35)
    let horizon = scenario.faultHorizon
    func short(_ random: inout SimulatedRandom) -> UInt64 { random.number(20 * ms, 1_500 * ms) }
    func long(_ random: inout SimulatedRandom) -> UInt64 { random.number(500 * ms, 6 * second) }
    func any(_ random: inout SimulatedRandom) -> UInt64 { random.chance(0.5) ? short(&random) : long(&random) }
    var faults: [Fault] = []
    var burst: UInt64?
    if random.chance(0.12) {
      // What was said long ago arrives while workers and coordinators come and go.
      faults.append(
        Fault(
          time: random.number(ms, horizon / 4),
          kind: .badNetwork(
            lossPercent: random.pick([0, 10]), repeatPercent: 40, delay: random.pick([second / 2, 2 * second]),
            duration: horizon)))
      for _ in 0..<2 + random.below(6) {
        let time = random.number(50 * ms, horizon)
        let slot = random.below(scenario.workers)
        faults.append(
          Fault(
            time: time,
            kind: random.chance(0.6)
              ? .killWorker(slot: slot, backAfter: short(&random))
              : random.chance(0.5) ? .resetConnection(slot: slot) : .killCoordinator(backAfter: short(&random))))
      }
    }
    for _ in 0..<count {
      var time = random.number(50 * ms, horizon)
      // Troubles do not come alone: one often falls into the recovery from the one before.
      if let burst, random.chance(0.4) { time = burst + random.number(0, 2 * second + 500 * ms) }
      burst = time
      let slot = random.below(scenario.workers)
      let back: UInt64? = random.chance(0.8) ? any(&random) : nil
      let kind: Kind
      switch isNarrow ? favourites[random.below(3)] : random.below(24) {
      case 0, 1: kind = .killWorker(slot: slot, backAfter: back)
      case 2: kind = .powerOffWorker(slot: slot, backAfter: back)
      case 3: kind = .pauseWorker(slot: slot, duration: any(&random))
      case 4: kind = .hangWorker(slot: slot, duration: random.chance(0.5) ? any(&random) : 60 * second)
      case 5: kind = .drainWorker(slot: slot, backAfter: back)
      case 6: kind = .joinWorker(slot: scenario.workers + random.below(scenario.extraSlots))
      case 7: kind = .workerClock(slot: slot, percent: random.pick([10, 40, 200, 500]), duration: any(&random))
      case 8, 9, 10: kind = .killCoordinator(backAfter: random.number(50 * ms, 4 * second))
      case 11: kind = .pauseCoordinator(duration: any(&random))
      case 12:
        kind = .usurpCoordinator(
          duration: random.number(500 * ms, 8 * second), after: random.number(10 * ms, 2 * second))
      case 13: kind = random.chance(0.5) ? .secondCoordinator : .drainCoordinator
      case 14: kind = .coordinatorClock(percent: random.pick([20, 50, 200, 400]), duration: any(&random))
      case 15, 16:
        var hosts: Set<Int> = []
        for _ in 0...random.below(max(scenario.workers / 2, 1)) { hosts.insert(random.below(scenario.hostCount)) }
        kind = .partition(hosts: hosts.sorted(), isOneWay: random.chance(0.4), duration: any(&random))
      case 17, 18:
        kind = .badNetwork(
          lossPercent: random.pick([0, 5, 20, 50]), repeatPercent: random.pick([0, 10, 40]),
          delay: random.pick([0, 20 * ms, 200 * ms, second, 4 * second]), duration: long(&random))
      case 19:
        kind = .slowLink(
          host: random.below(scenario.hostCount), factor: random.pick([5, 50, 300]), duration: long(&random))
      case 20: kind = .resetConnection(slot: slot)
      case 21:
        kind =
          random.chance(0.5)
          ? .diskFull(duration: any(&random)) : .slowDisk(factor: random.pick([5, 50]), duration: long(&random))
      case 22:
        guard scenario.canDiskLie else {
          kind = .powerOffStorage(backAfter: short(&random))
          break
        }
        faults.append(Fault(time: time, kind: .lyingDisk(duration: 3 * second)))
        time += random.number(10 * ms, 4 * second)
        kind = .powerOffStorage(backAfter: short(&random))
      default: kind = .bitRot
      }
      faults.append(Fault(time: time, kind: kind))
    }
    if random.chance(0.12) {
      // For one step, or for long: what one machine of several does wrong.
      let slot = random.below(scenario.workers)
      for _ in 0..<1 + random.below(2) {
        faults.append(
          Fault(time: random.number(50 * ms, horizon), kind: .computeWrongly(slot: slot, duration: any(&random))))
      }
    }
    return faults.sorted { $0.time < $1.time }
  }
}
