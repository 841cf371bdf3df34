import ClusterModel
import Wire

/// A worker's protocol decisions: whom to obey, what to answer, when to introduce itself; no socket, thread or clock.
///
/// It obeys one coordinator: the one with the highest generation that it has heard of. Orders are carried out once,
/// however often they come; an answer that the coordinator misses is sent again.
public struct WorkerMachine: Sendable {
  public enum Phase: Hashable, Sendable {
    case starting
    /// Saying hello until somebody answers.
    case joining
    case member
    case ended(WorkerEnding)
  }

  public struct State: Hashable, Sendable {
    public internal(set) var phase = Phase.starting
    public internal(set) var run = RunID("")
    public internal(set) var worker: WorkerID?
    public internal(set) var generation = Generation(0)
    /// The newest order of the generation.
    public internal(set) var order: UInt64 = 0
    var hello: Hello?
    /// The answer to the newest order, once there is one.
    var answer: Answer?
    /// The newest part of a checkpoint that has no manifest yet.
    var part: ControlMessage?
    var partSentTick: UInt64 = 0
    var leaving: String?
    var leavingSentTick: UInt64 = 0
    var now: UInt64 = 0
    var lastHeardTick: UInt64 = 0
    var nextHelloTick: UInt64 = 0
    var helloWait: UInt64 = 0

    struct Answer: Hashable, Sendable {
      var order: UInt64
      var message: ControlMessage
      var sentTick: UInt64
    }
  }

  public let settings: WorkerMachineSettings
  public private(set) var state = State()

  public init(settings: WorkerMachineSettings = WorkerMachineSettings()) { self.settings = settings }

  public mutating func handle(_ event: WorkerEvent) -> [WorkerDirective] {
    if case .ended = state.phase { return [] }
    switch event {
    case .started(let hello):
      state.hello = hello
      state.phase = .joining
      state.lastHeardTick = state.now
      return sayHello()
    case .message(let envelope): return receive(envelope)
    case .tick(let progress): return tick(progress)
    case .done(let message, let order, let generation):
      guard generation == state.generation, order == state.order else { return [] }
      return answer(message)
    case .failed(let kind, let reason, let order, let generation):
      // Whatever ended with its generation is no failure.
      guard generation == state.generation, order == state.order else { return [] }
      return answer(.failed(kind: kind, reason: reason))
    case .noted(let message, let generation): return noted(message, generation)
    case .stopRequested(let reason): return stopRequested(reason)
    }
  }

  // MARK: What it says

  private func envelope(_ message: ControlMessage, order: UInt64 = 0) -> Envelope {
    Envelope(
      run: state.run, generation: state.generation, sender: state.worker.map { .worker($0) } ?? .candidate,
      order: order, message: message)
  }

  private mutating func answer(_ message: ControlMessage) -> [WorkerDirective] {
    state.answer = State.Answer(order: state.order, message: message, sentTick: state.now)
    return [.send(envelope(message, order: state.order))]
  }

  private mutating func noted(_ message: ControlMessage, _ generation: Generation) -> [WorkerDirective] {
    guard generation == state.generation else { return [] }
    switch message {
    case .checkpointWritten, .checkpointFailed:
      state.part = message
      state.partSentTick = state.now
    default: break
    }
    return [.send(envelope(message))]
  }

  private mutating func sayHello() -> [WorkerDirective] {
    guard var hello = state.hello else { return [] }
    hello.worker = state.worker
    state.helloWait = min(max(state.helloWait * 2, settings.helloTicks), settings.mostHelloTicks)
    state.nextHelloTick = state.now + state.helloWait
    return [.send(envelope(.hello(hello)))]
  }

  private mutating func end(_ ending: WorkerEnding) -> [WorkerDirective] {
    state.phase = .ended(ending)
    return [.finish(ending)]
  }

  private mutating func stopRequested(_ reason: String) -> [WorkerDirective] {
    guard state.phase == .member, state.leaving == nil else { return end(.requeue(reason: reason)) }
    state.leaving = reason
    state.leavingSentTick = state.now
    return [.send(envelope(.leaving(reason: reason)))]
  }

  // MARK: Time

  private mutating func tick(_ progress: Heartbeat) -> [WorkerDirective] {
    state.now += 1
    let silence = state.now - state.lastHeardTick
    switch state.phase {
    case .starting, .ended: return []
    case .joining:
      if silence > settings.joinTicks { return end(.unreachable(seconds: Double(silence) * settings.tickSeconds)) }
      return state.now >= state.nextHelloTick ? sayHello() : []
    case .member: break
    }
    if silence > settings.lostTicks { return end(.coordinatorLost(seconds: Double(silence) * settings.tickSeconds)) }
    var directives: [WorkerDirective] = []
    if silence > settings.rejoinTicks, state.now >= state.nextHelloTick {
      if silence == settings.rejoinTicks + 1 { directives.append(.log(.warning, "the coordinator is silent")) }
      directives += sayHello()
    }
    if state.now.isMultiple(of: settings.heartbeatTicks) {
      var progress = progress
      progress.order = state.order
      directives.append(.send(envelope(.heartbeat(progress))))
    }
    if let reason = state.leaving, state.now - state.leavingSentTick >= settings.leavingTicks {
      state.leavingSentTick = state.now
      directives.append(.send(envelope(.leaving(reason: reason))))
    }
    return directives
  }

  // MARK: What it hears

  private mutating func receive(_ envelope: Envelope) -> [WorkerDirective] {
    // Of this run, of a coordinator, and of no coordinator that another has followed: nothing else is obeyed.
    guard envelope.sender == .coordinator, envelope.generation >= state.generation, state.phase != .starting else {
      return []
    }
    guard state.worker == nil || envelope.run == state.run else { return [] }
    switch envelope.message {
    case .welcome(let welcome): return receive(welcome, envelope)
    case .refused(let reason):
      return [.log(.error, "refused: \(reason)")] + end(.refused(reason: reason))
    default: break
    }
    guard state.phase == .member else { return [] }
    heard()
    switch envelope.message {
    case .introduce:
      // It has forgotten us, or our connection is another one by now. Each message that it does not know brings
      // such an answer: one hello is enough for all of them.
      guard state.now >= state.nextHelloTick || state.helloWait == 0 else { return [] }
      return sayHello()
    case .regroup: return regroup(envelope)
    case .prepare(let prepare): return order(.prepare(prepare), envelope)
    case .runStep(let step): return order(.runStep(step), envelope)
    case .update(let update): return order(.update(update), envelope)
    case .evaluate(let step): return order(.evaluate(step), envelope)
    case .save(let step): return order(.save(step), envelope)
    case .coordinatorHeartbeat(let heartbeat): return receive(heartbeat, envelope.generation)
    case .checkpointCommitted(let step):
      if case .checkpointWritten(let part) = state.part, part.step <= step { state.part = nil }
      return [.log(.debug, "checkpoint of step \(step) committed")]
    case .clockQuestion(let sent): return [.answerClock(sentNanoseconds: sent)]
    case .stop(let stop):
      switch stop.disposition {
      case .done: return [.log(.info, "stopping: \(stop.reason)")] + end(.done)
      case .requeue: return [.log(.info, "stopping: \(stop.reason)")] + end(.requeue(reason: stop.reason))
      case .failed: return end(.stopped(reason: stop.reason))
      }
    case .hello, .ready, .reduced, .updated, .evaluated, .checkpointWritten, .checkpointFailed, .heartbeat, .leaving,
      .failed, .traced, .standing, .copied, .welcome, .refused, .statusRequest, .status:
      return [.log(.debug, "the coordinator sent a message that only others send; ignored")]
    }
  }

  /// A sign of life of the coordinator that is obeyed.
  private mutating func heard() {
    state.lastHeardTick = state.now
    if state.now >= state.nextHelloTick { state.helloWait = 0 }
  }

  private mutating func receive(_ welcome: Welcome, _ envelope: Envelope) -> [WorkerDirective] {
    let isFirst = state.worker == nil
    // The answer to a hello of ours that was long on its way, from before we had a number: the number that we work
    // under stays, and the next hello says which it is.
    guard isFirst || state.worker == welcome.worker else { return [] }
    state.run = envelope.run
    state.worker = welcome.worker
    state.phase = .member
    state.lastHeardTick = state.now
    state.helloWait = 0
    if envelope.generation > state.generation { begin(envelope.generation, order: 0) }
    let run = envelope.run.text.prefix(8)
    if isFirst {
      return [.configure(welcome, envelope.run), .log(.info, "joined run \(run) as \(welcome.worker)")]
    }
    return [.log(.info, "back in run \(run) as \(welcome.worker)")]
  }

  private mutating func begin(_ generation: Generation, order: UInt64) {
    state.generation = generation
    state.order = order
    state.answer = nil
    state.part = nil
  }

  private mutating func regroup(_ envelope: Envelope) -> [WorkerDirective] {
    guard let me = state.worker, envelope.generation > state.generation || envelope.order > state.order else {
      return []
    }
    begin(envelope.generation, order: envelope.order)
    return [
      .interrupt(reason: "\(envelope.generation) begins"),
      .perform(.standing, me: me, order: envelope.order, generation: envelope.generation),
    ]
  }

  private mutating func order(_ order: WorkerOrder, _ envelope: Envelope) -> [WorkerDirective] {
    // A generation begins with `regroup`: an order of one that was not announced is early, and comes again.
    guard let me = state.worker, envelope.generation == state.generation, envelope.order > state.order else {
      return []
    }
    state.order = envelope.order
    state.answer = nil
    return [.perform(order, me: me, order: envelope.order, generation: envelope.generation)]
  }

  private mutating func receive(_ heartbeat: CoordinatorHeartbeat, _ generation: Generation) -> [WorkerDirective] {
    guard generation == state.generation else { return [] }
    var directives: [WorkerDirective] = []
    if var answer = state.answer, answer.order == heartbeat.awaitedOrder,
      state.now - answer.sentTick >= settings.heartbeatTicks
    {
      answer.sentTick = state.now
      state.answer = answer
      directives.append(.send(envelope(answer.message, order: answer.order)))
    }
    if let part = state.part, part.partStep == heartbeat.awaitedPart, heartbeat.awaitedPart != nil,
      state.now - state.partSentTick >= settings.heartbeatTicks
    {
      state.partSentTick = state.now
      directives.append(.send(envelope(part)))
    }
    return directives
  }
}

extension ControlMessage {
  /// The checkpoint that a report of a part is about.
  fileprivate var partStep: Step? {
    switch self {
    case .checkpointWritten(let part): part.step
    case .checkpointFailed(let step, _): step
    default: nil
    }
  }
}
