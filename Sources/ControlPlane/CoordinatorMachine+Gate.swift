import ClusterModel
import Wire

extension CoordinatorMachine {
  /// Who sent a message, once the gate has let it through.
  enum Admitted: Hashable {
    case member(WorkerID)
    case candidate(Hello, trusted: Bool)
    case observer
  }

  /// The one gate: run, generation and sender of every message. What it refuses changes nothing.
  func gate(_ envelope: Envelope, from connection: Connection) -> Result<Admitted, GateRefusal> {
    let namesNoRun = envelope.run.text.isEmpty
    guard envelope.run == settings.run || namesNoRun else { return .failure(.foreignRun) }
    switch (envelope.sender, envelope.message) {
    case (.coordinator, _): return .failure(.impostor)
    case (.observer, .statusRequest): return .success(.observer)
    case (.candidate, .hello(let hello)): return .success(.candidate(hello, trusted: !namesNoRun))
    case (.worker(let worker), .hello(let hello)):
      // A worker that reconnects knows its ID, but it is a candidate until it is welcomed.
      guard hello.worker == nil || hello.worker == worker else { return .failure(.wrongSender) }
      return .success(.candidate(hello, trusted: !namesNoRun))
    case (.observer, _), (.candidate, _): return .failure(.notAllowed)
    case (.worker(let worker), _):
      guard !namesNoRun else { return .failure(.foreignRun) }
      guard state.membership.worker(at: connection) == worker else { return .failure(.wrongSender) }
      guard envelope.generation == state.generation else { return .failure(.stale(envelope.generation)) }
      return .success(.member(worker))
    }
  }

  enum GateRefusal: Error, Hashable, CustomStringConvertible {
    case foreignRun
    case impostor
    case wrongSender
    case stale(Generation)
    case notAllowed
    var description: String {
      switch self {
      case .foreignRun: "it is of another run"
      case .impostor: "it claims to be from the coordinator"
      case .wrongSender: "its sender is not the worker of that connection"
      case .stale(let generation): "it is of \(generation)"
      case .notAllowed: "its sender may not say that"
      }
    }
  }

  mutating func receive(_ envelope: Envelope, from connection: Connection) -> [CoordinatorDirective] {
    switch gate(envelope, from: connection) {
    case .failure(let refusal):
      return [.log(.debug, "refused a message of \(connection): \(refusal)")]
    case .success(.observer): return [.answerStatus(connection)]
    case .success(.candidate(let hello, let trusted)): return receive(hello, from: connection, trusted: trusted)
    case .success(.member(let worker)): return receive(envelope.message, from: worker)
    }
  }

  private mutating func receive(_ hello: Hello, from connection: Connection, trusted: Bool) -> [CoordinatorDirective] {
    switch state.phase {
    case .settling, .stopping, .finished:
      return [.send(self.envelope(.refused(reason: "the run is ending")), to: connection)]
    case .assembling, .preparing, .evaluating, .stepping: break
    }
    let formed = state.plan != nil
    switch state.membership.hello(hello, from: connection, trusted: trusted, formed: formed, now: state.now) {
    case .refused(let reason):
      return [
        .send(self.envelope(.refused(reason: reason)), to: connection),
        .log(.warning, "refused a worker on \(hello.host): \(reason)"),
      ]
    case .again(let worker): return welcome(worker)
    case .moved(let worker):
      return formed ? lost(worker, "came back over another connection") : welcome(worker)
    case .admitted(let worker):
      let record = WorkerRecord(
        worker: worker, generation: state.generation, host: hello.host, processID: hello.processID,
        deviceFingerprint: hello.deviceFingerprint, gigaflopsPerSecond: hello.gigaflopsPerSecond)
      let joined = "\(worker) joined from \(hello.host): \(state.membership.count) of \(settings.expectedWorkers)"
      return [.persistWorker(record)] + welcome(worker) + [.log(.info, joined)]
        + (state.membership.count == settings.expectedWorkers ? form() : [])
    }
  }

  private func welcome(_ worker: WorkerID) -> [CoordinatorDirective] {
    send(
      .welcome(
        Welcome(
          worker: worker, configuration: settings.configuration, runDirectory: settings.runDirectory,
          tracing: settings.tracing)),
      to: worker)
  }

  private mutating func receive(_ message: ControlMessage, from worker: WorkerID) -> [CoordinatorDirective] {
    let before = state.membership
    var heartbeat: Heartbeat?
    if case .heartbeat(let content) = message { heartbeat = content }
    state.membership.heard(worker, heartbeat: heartbeat, now: state.now)
    let handled: [CoordinatorDirective]? =
      switch message {
      case .heartbeat: []
      case .ready(let ready): receive(ready, from: worker)
      case .reduced(let report): receive(report, from: worker)
      case .updated(let report): receive(report, from: worker)
      case .evaluated(let report): receive(report, from: worker)
      case .checkpointWritten(let part):
        state.checkpoints.accept(part, from: worker) ? decideCheckpoint() : nil
      case .checkpointFailed(let step, let reason):
        state.checkpoints.acceptFailure(step: step, reason: reason, from: worker) ? decideCheckpoint() : nil
      case .traced(let report): settings.tracing ? [.recordTrace(report, of: worker)] : nil
      case .leaving(let reason): leaving(worker, reason)
      case .failed(let kind, let reason): failed(worker, kind, reason)
      case .hello, .welcome, .refused, .prepare, .runStep, .update, .evaluate, .checkpointCommitted,
        .coordinatorHeartbeat, .stop, .clockQuestion, .statusRequest, .status:
        nil
      }
    if let handled { return handled }
    // Not even a sign of life: a repeated report must not make a hanging worker look busy.
    state.membership = before
    return [.log(.debug, "ignored a late or repeated message of \(worker)")]
  }
}
