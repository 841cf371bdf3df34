import ClusterModel
import ControlPlane
import Wire

/// Events as a trace shows them.
enum SimulationText {
  static func envelope(_ envelope: Envelope) -> String {
    let sender: String =
      switch envelope.sender {
      case .coordinator: "coordinator"
      case .worker(let worker): "\(worker)"
      case .candidate: "a candidate"
      case .observer: "an observer"
      }
    let order = envelope.order == 0 ? "" : " order \(envelope.order)"
    return "\(message(envelope.message)) of \(sender), \(envelope.generation)\(order)"
  }

  static func message(_ message: ControlMessage) -> String {
    switch message {
    case .prepare(let prepare):
      "prepare \(prepare.plan.places.map { $0.map(\.number) }) stages \(prepare.plan.stageUnits) leaves \(prepare.plan.replicaLeaves) from step \(prepare.fromStep) \(origin(prepare.origin))"
        + (prepare.norm.map { " with the sums of \($0.generation)" } ?? "")
    case .standing(let standing):
      "standing \(standing.live.map(held) ?? "nothing")\(standing.hasSums ? " with sums" : "") copies [\(standing.copies.map(held).joined(separator: "; "))]"
    case .reduced(let report): "reduced step \(report.step)"
    case .updated(let report): "updated step \(report.step)"
    case .evaluated(let report): "evaluated step \(report.step)"
    case .checkpointWritten(let part): "checkpointWritten step \(part.step) \(part.file)"
    case .welcome(let welcome): "welcome \(welcome.worker)"
    case .hello(let hello): "hello \(hello.dataEndpoint) as \(hello.worker?.description ?? "new")"
    case .heartbeat(let beat): "heartbeat \(beat.phase) step \(beat.step) order \(beat.order)"
    default: "\(message)"
    }
  }

  private static func origin(_ origin: StateOrigin) -> String {
    guard case .members(let holders) = origin else { return "\(origin)" }
    return "members " + holders.map { "\($0.worker.number): \($0.parameters) \($0.moments)" }.joined(separator: "; ")
  }

  private static func held(_ state: HeldState) -> String {
    "step \(state.step) parameters \(state.parameters) moments \(state.moments)"
  }

  static func event(_ event: CoordinatorEvent) -> String {
    switch event {
    case .message(let envelope, let connection): "\(self.envelope(envelope)) over \(connection)"
    default: "\(event)"
    }
  }

  static func transaction(_ transaction: SimulatedJournal.Transaction) -> String {
    switch transaction {
    case .begin: "begin"
    case .worker(let record): "\(record.worker)"
    case .generation(let generation, _): "\(generation)"
    case .plan(let record): "the plan of \(record.generation)"
    case .step(let record): "step \(record.step) of \(record.generation)"
    case .skip(let record): "samples \(record.samples) are skipped"
    case .expulsion(let record): "\(record.worker) is expelled"
    case .evaluation(let record): "the evaluation of step \(record.step)"
    }
  }
}
