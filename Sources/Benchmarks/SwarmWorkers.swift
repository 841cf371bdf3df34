import ClusterModel
import Foundation
import Transport
import Wire

/// Simulated workers in one process: each, or each host of several, has its own TCP connection to a real coordinator,
/// beats once a second, and answers every order at once with numbers that follow from the step alone.
public struct SwarmWorkers {
  public var address: String
  /// The number of the first worker.
  public var first: Int
  public var count: Int
  /// Of the whole run.
  public var total: Int
  /// How long the worker of rank 0 takes to say that its update is done: the pause between two steps.
  public var pauseSeconds: Double
  /// How many share a connection, as behind a relay.
  public var workersPerHost: Int

  static let beatSeconds = 1.0
  /// Workers that have said hello and are not welcomed yet: the coordinator records each of them on disk.
  static let mostWaiting = 64
  static let tensorCount = 3
  static let targetTokens: UInt64 = 10
  static let dataFingerprint = "data"

  private struct Member {
    var worker: WorkerID?
    var generation = Generation(0)
    var order: UInt64 = 0
    var step: Step = 0
    var rank: Int?
  }
  /// The reports of those of a host on the step that comes next, made while nothing is to be done: a barrier measures the
  /// coordinator.
  private struct Prepared {
    var generation: Generation
    var order: UInt64
    var step: Step
    var numbers: [UInt32]
    var bytes: [UInt8]
  }

  public init(address: String, first: Int, count: Int, total: Int, pauseSeconds: Double, workersPerHost: Int) {
    self.address = address
    self.first = first
    self.count = count
    self.total = total
    self.pauseSeconds = pauseSeconds
    self.workersPerHost = workersPerHost
  }

  /// Whose turn it is to beat: those of a host beat at different times, so that no two beats share a bundle.
  func beating(_ beats: Int) -> Int {
    let hosts = (count + workersPerHost - 1) / workersPerHost
    let turn = beats % (hosts * workersPerHost)
    return turn % hosts * workersPerHost + turn / hosts
  }

  /// Works until the coordinator says stop.
  /// - Parameter report: is told how many workers are welcome and how many beats were sent so far, once a second.
  public func run(report: (_ welcomed: Int, _ beats: Int) -> Void) throws {
    let swarm = try ControlSwarm(address: address, workersPerHost: workersPerHost)
    var members = [Member](repeating: Member(), count: count)
    var prepared = [Prepared?](repeating: nil, count: (count + workersPerHost - 1) / workersPerHost)
    var run = RunID("")
    /// Ranks in the newest plan, made once for all members.
    var ranks: (generation: Generation, rank: [WorkerID: Int]) = (Generation(0), [:])
    var connected = 0
    var welcomed = 0
    var beats = 0
    var due = 0.0
    /// Answers that wait for the pause to end.
    var late: [(at: Date, index: Int, message: ControlMessage)] = []
    var nextReport = Date()
    var isOver = false
    var last = Date()

    func say(_ message: ControlMessage, _ index: Int, order: UInt64 = 0) throws {
      let member = members[index]
      try swarm.send(
        Envelope(
          run: run, generation: member.generation, sender: member.worker.map { .worker($0) } ?? .candidate,
          order: order, message: message), from: UInt32(index))
    }

    func answer(_ envelope: Envelope, _ index: Int) throws {
      if envelope.order > 0 {
        guard envelope.generation > members[index].generation || envelope.order > members[index].order else {
          return
        }
        members[index].order = envelope.order
      }
      switch envelope.message {
      case .welcome(let welcome):
        if members[index].worker == nil { welcomed += 1 }
        members[index].worker = welcome.worker
        run = envelope.run
        members[index].generation = max(members[index].generation, envelope.generation)
        try say(.heartbeat(heartbeat(members[index], beats)), index)
      case .introduce:
        var hello = hello(index)
        hello.worker = members[index].worker
        try say(.hello(hello), index)
      case .regroup:
        members[index].generation = envelope.generation
        try say(.standing(Standing()), index, order: envelope.order)
      case .prepare(let prepare):
        if ranks.generation != envelope.generation {
          let ranked = prepare.plan.places.joined().enumerated().map { ($1, $0) }
          ranks = (envelope.generation, Dictionary(ranked) { first, _ in first })
        }
        members[index].rank = members[index].worker.flatMap { ranks.rank[$0] }
        try say(
          .ready(Ready(step: prepare.fromStep, dataFingerprint: Self.dataFingerprint, memoryBytes: 1 << 20)), index,
          order: envelope.order)
      case .runStep(let step):
        members[index].step = step
        guard let rank = members[index].rank else { return }
        try say(.reduced(reduced(step, rank)), index, order: envelope.order)
      case .update(let update):
        let answer = ControlMessage.updated(
          Updated(step: update.step, phases: PhaseSeconds(), memoryBytes: 1 << 20))
        if members[index].rank == 0, pauseSeconds > 0 {
          late.append((Date().addingTimeInterval(pauseSeconds), index, answer))
        } else {
          try say(answer, index, order: envelope.order)
        }
      case .stop, .refused: isOver = true
      default: break
      }
    }

    while !isOver {
      while connected < count, connected - welcomed < Self.mostWaiting {
        try swarm.connect(UInt32(connected))
        try say(.hello(hello(connected)), connected)
        connected += 1
      }
      var reports: [(number: UInt32, bytes: [UInt8])] = []
      for (numbers, envelope) in try swarm.poll(timeoutMilliseconds: 5) {
        let host = Int(numbers[0]) / workersPerHost
        if case .runStep(let step) = envelope.message, let prepared = prepared[host], prepared.numbers == numbers,
          prepared.generation == envelope.generation, prepared.order == envelope.order, prepared.step == step
        {
          reports.append((numbers[0], prepared.bytes))
          for number in numbers { (members[Int(number)].order, members[Int(number)].step) = (envelope.order, step) }
          continue
        }
        for number in numbers { try answer(envelope, Int(number)) }

        if case .update(let update) = envelope.message {
          let next = numbers.compactMap { number in
            members[Int(number)].rank.map { rank in
              let report = Envelope(
                run: run, generation: envelope.generation,
                sender: members[Int(number)].worker.map { .worker($0) } ?? .candidate, order: envelope.order + 1,
                message: .reduced(reduced(update.step + 1, rank)))
              return (number: number, envelope: report)
            }
          }
          guard !next.isEmpty else { continue }
          prepared[host] = Prepared(
            generation: envelope.generation, order: envelope.order + 1, step: update.step + 1,
            numbers: next.map(\.number), bytes: swarm.together(next))
        }
      }
      // After all orders that were there: a message each time would wake the library for each.
      for (number, bytes) in reports { try swarm.send(together: bytes, of: number) }
      let now = Date()
      while let answer = late.first, answer.at <= now {
        late.removeFirst()
        try say(answer.message, answer.index, order: members[answer.index].order)
      }
      // Spread over the second, as those of workers that started at any time are.
      due += now.timeIntervalSince(last) / Self.beatSeconds * Double(count)
      last = now
      while due >= 1 {
        due -= 1
        let index = beating(beats)
        beats += 1
        guard index < count, members[index].worker != nil else { continue }
        try say(.heartbeat(heartbeat(members[index], beats)), index)
      }
      try swarm.flush()
      if now >= nextReport {
        nextReport = now.addingTimeInterval(1)
        report(welcomed, beats)
      }
    }
  }

  private func heartbeat(_ member: Member, _ beats: Int) -> Heartbeat {
    Heartbeat(
      progress: UInt64(beats / count), step: member.step, phase: "idle", microbatchesPerSecond: 1,
      memoryBytes: 1 << 20, order: member.order)
  }

  private func hello(_ index: Int) -> Hello {
    let number = first + index
    return Hello(
      worker: nil, host: "host-\(number / max(8, workersPerHost))", processID: Int32(number + 1), threads: 1,
      memoryLimitBytes: 1 << 40,
      deviceFingerprint: "simulated", gigaflopsPerSecond: 100, dataEndpoint: "ipc:///swarm/\(number)")
  }

  /// One microbatch a worker, and the norms of the first tensors from the first ranks.
  private func reduced(_ step: Step, _ rank: Int) -> Reduced {
    Reduced(
      step: step,
      losses: [
        MicrobatchLoss(
          microbatch: UInt32(rank), languageModelSum: 10 / Double(step + 1), targetTokens: Self.targetTokens,
          diffusionSum: 0.25, images: 1)
      ],
      norms: (0..<Self.tensorCount).filter { $0 % total == rank }.map {
        TensorNorm(tensor: UInt32($0), sumOfSquares: Double($0 + 1) / Double(step + 1))
      })
  }
}
