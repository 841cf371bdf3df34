/// Who reaches whom, and how late.
struct SimulatedNetwork {
  struct Partition {
    var fault: Int
    var hosts: [Int]
    var isOneWay: Bool
    var end: UInt64
  }
  struct Trouble {
    var fault: Int
    var lossPercent: Int
    var repeatPercent: Int
    var delay: UInt64
  }
  struct Slowness {
    var fault: Int
    var host: Int
    var factor: UInt64
  }
  let latency: UInt64
  let jitter: UInt64
  var partitions: [Partition] = []
  var troubles: [Trouble] = []
  var slow: [Slowness] = []

  /// When the last partition between two hosts ends; nil when there is none.
  func blockedUntil(from: Int, to: Int) -> UInt64? {
    if partitions.isEmpty { return nil }
    var end: UInt64?
    for partition in partitions {
      let fromInside = partition.hosts.contains(from)
      let toInside = partition.hosts.contains(to)
      guard fromInside != toInside, fromInside || !partition.isOneWay else { continue }
      end = max(end ?? 0, partition.end)
    }
    return end
  }

  private func base(from: Int, to: Int, _ random: inout SimulatedRandom) -> UInt64 {
    var time = latency + random.number(0, jitter)
    time *= slow.lazy.filter { $0.host == from || $0.host == to }.map(\.factor).max() ?? 1
    return from == to ? time / 4 : time
  }

  /// How long a control message takes; nil when it is lost.
  func delay(from: Int, to: Int, now: UInt64, _ random: inout SimulatedRandom) -> UInt64? {
    var time = base(from: from, to: to, &random)
    if let end = blockedUntil(from: from, to: to) {
      // The system sends again what was not acknowledged, unless the connection breaks before.
      if random.chance(0.6) { return nil }
      time += end - min(end, now)
    }
    for trouble in troubles {
      if random.below(100) < trouble.lossPercent { return nil }
      if trouble.delay > 0 { time += random.number(0, trouble.delay) }
    }
    return time
  }

  func isRepeated(_ random: inout SimulatedRandom) -> Bool {
    troubles.contains { random.below(100) < $0.repeatPercent }
  }

  /// How long a frame takes whose sender keeps it until it has arrived.
  func reliableDelay(from: Int, to: Int, now: UInt64, _ random: inout SimulatedRandom) -> UInt64 {
    var time = base(from: from, to: to, &random)
    if let end = blockedUntil(from: from, to: to) { time += end - min(end, now) + 10 * VirtualTime.millisecond }
    for trouble in troubles {
      if random.below(100) < trouble.lossPercent { time += 50 * VirtualTime.millisecond }
      if trouble.delay > 0 { time += random.number(0, trouble.delay) }
    }
    return time
  }
}
