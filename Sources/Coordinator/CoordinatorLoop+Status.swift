import ClusterModel
import ControlPlane
import Foundation
import Wire

/// What status needs of the past, kept in memory so that it is answered without a query.
struct StepHistory {
  /// Newest steps, ascending.
  private(set) var steps: [JournaledStep] = []
  private(set) var validations: [EvaluationRecord]
  /// The newest checkpoint and when it was committed, where known.
  var checkpoint: (step: Step, at: Double?)?

  init(journal: Journal, checkpoint: Step?) {
    validations = Array(((try? journal.validations()) ?? []).suffix(100))
    let known = (try? journal.checkpoints()) ?? []
    self.checkpoint = checkpoint.map { step in (step, known.first { $0.step == step }?.committedAtSeconds) }
  }

  mutating func append(_ step: JournaledStep) {
    steps.append(step)
    if steps.count > StatusReport.recentSteps { steps.removeFirst() }
  }
  mutating func append(_ record: EvaluationRecord) {
    validations.append(record)
    if validations.count > 100 { validations.removeFirst() }
  }
}

extension CoordinatorLoop {
  func answerStatus(_ connection: Connection) {
    guard let json = try? status().json() else { return }
    let answer = Envelope(
      run: machine.settings.run, generation: machine.state.generation, sender: .coordinator,
      message: .status(json: json))
    guard let peer = peers[connection] else { return }
    // An observer that has hung up misses its answer; that is all.
    try? server.send(answer, to: peer)
  }

  /// From memory alone.
  /// - Parameter withWorkers: whether each worker is listed, which after every step would be much for thousands.
  func status(withWorkers: Bool = true) -> StatusReport {
    let state = machine.state
    // A step whose commit is being reported counts already.
    let step = max(state.step, history.steps.last.map { $0.record.step + 1 } ?? 0)
    var report = StatusReport(
      run: machine.settings.run.text, live: true, state: machine.phaseName, generation: state.generation.number,
      step: step, totalSteps: settings.totalSteps)
    report.tokens = step &* settings.tokensPerStep
    report.tokensTotal = settings.totalSteps &* settings.tokensPerStep
    report.samples = history.steps.last?.record.samples.upperBound ?? step &* settings.samplesPerStep
    report.setProgress(history.steps.last, recent: history.steps)
    let now = Date().timeIntervalSince1970
    if let newest = state.checkpoints.newest {
      let at = history.checkpoint.flatMap { $0.step == newest ? $0.at : nil }
      report.lastCheckpoint = .init(step: newest, secondsAgo: at.map { max(0, now - $0) })
    }
    report.checkpointInFlight = state.checkpoints.stepInFlight
    report.lastCopy = machine.copiedStep
    report.stepsToLose = step - min(step, state.checkpoints.newest ?? 0)
    report.validations = history.validations.map {
      .init(step: $0.step, languageModelLoss: $0.languageModelLoss, diffusionLoss: $0.diffusionLoss)
    }
    report.plan = state.plan.map { .init($0) }
    report.waitingReason = state.waitingReason
    report.slowest = machine.slowest.map { .init(worker: $0.worker.number, phase: $0.phase, seconds: $0.seconds) }
    report.skippedSamples = state.skips.isEmpty ? nil : state.skips.count
    report.expelled = state.expelled.isEmpty ? nil : state.expelled.sorted().map(\.number)
    report.expectedWorkers = settings.expectedWorkers
    report.workers = (withWorkers ? machine.workerViews : []).map { view in
      .init(
        id: view.worker.number, host: view.host, rank: view.rank, stage: view.stage, replica: view.replica,
        state: view.state, phase: view.phase, microbatchesPerSecond: view.microbatchesPerSecond,
        memoryBytes: view.memoryBytes, memoryLimitBytes: view.memoryLimitBytes == 0 ? nil : view.memoryLimitBytes)
    }
    if let outcome {
      report.outcome = .init(kind: outcome.kind.rawValue, reason: outcome.reason, exitCode: outcome.exitCode)
    }
    return report
  }
}
