import ClusterModel
import Wire

/// One step on its way from `runStep` through the journal to the next state: who has reported what.
public struct StepBarrier: Hashable, Sendable {
  public enum Phase: Hashable, Sendable {
    case reducing
    /// Everything is summed; the record is on its way to disk.
    case journaling
    /// Committed: the workers apply it.
    case updating
  }
  public let step: Step
  public private(set) var phase = Phase.reducing
  public private(set) var record: StepRecord?
  private var reduced: Reports<Reduced>
  private var updated: Reports<Bool>

  init(step: Step, ranks: Ranks) {
    self.step = step
    reduced = Reports(ranks)
    updated = Reports(ranks)
  }

  /// What was reported so far.
  var reports: [WorkerID: Reduced] {
    Dictionary(reduced.present.map { ($0.worker, $0.report) }) { first, _ in first }
  }

  /// Whether the coordinator waits for this worker.
  func owes(_ worker: WorkerID) -> Bool {
    switch phase {
    case .reducing: reduced.owes(worker)
    case .updating: updated.owes(worker)
    case .journaling: false
    }
  }

  public enum Acceptance: Hashable, Sendable {
    /// Late, early or repeated: nothing changed.
    case ignored
    case waiting
    /// This was the last one.
    case complete
  }

  mutating func accept(_ report: Reduced, from worker: WorkerID) -> Acceptance {
    guard phase == .reducing, report.step == step, reduced.accept(report, from: worker) else { return .ignored }
    return reduced.isComplete ? .complete : .waiting
  }

  mutating func accept(_ report: Updated, from worker: WorkerID) -> Acceptance {
    guard phase == .updating, report.step == step, updated.accept(true, from: worker) else { return .ignored }
    return updated.isComplete ? .complete : .waiting
  }

  /// Adds up what was reported; everything not finite stops here, before any parameter changes.
  ///
  /// - Parameter samples: positions of the sample stream that the step consumes.
  func sum(
    _ settings: CoordinatorMachineSettings, samples: Range<UInt64>, generation: Generation
  ) throws(ReportError) -> StepRecord {
    let reports = reduced.present
    let losses = try ReportedLosses(
      reports.map { (worker: $0.worker, losses: $0.report.losses) }, count: settings.shape.microbatches)
    let expected: StepDenominators
    do { expected = try settings.denominators(samples) } catch { throw .denominatorsUnknown(reason: "\(error)") }
    guard losses.counts == expected else { throw .denominators(expected: expected, reported: losses.counts) }
    let squares = try ReportedLosses.sumOfSquares(
      reports.map { (worker: $0.worker, norms: $0.report.norms) }, count: settings.tensorCount)
    return StepRecord(
      step: step, generation: generation, samples: samples, tokens: settings.tokensPerStep,
      targetTokens: losses.counts.targetTokens, images: losses.counts.images,
      languageModelLoss: losses.languageModelLoss, diffusionLoss: losses.diffusionLoss,
      gradientSumOfSquares: squares, learningRate: settings.learningRate(step))
  }

  mutating func beginJournaling(_ record: StepRecord) {
    self.record = record
    phase = .journaling
  }
  mutating func beginUpdate() { phase = .updating }
}

/// One evaluation: who has reported.
public struct EvaluationBarrier: Hashable, Sendable {
  public let step: Step
  private var reports: Reports<Evaluated>

  init(step: Step, ranks: Ranks) {
    self.step = step
    reports = Reports(ranks)
  }
  func owes(_ worker: WorkerID) -> Bool { reports.owes(worker) }

  mutating func accept(_ report: Evaluated, from worker: WorkerID) -> StepBarrier.Acceptance {
    guard report.step == step, reports.accept(report, from: worker) else { return .ignored }
    return reports.isComplete ? .complete : .waiting
  }

  func sum(microbatches: Int, generation: Generation) throws(ReportError) -> EvaluationRecord {
    let losses = try ReportedLosses(
      reports.present.map { (worker: $0.worker, losses: $0.report.losses) }, count: microbatches)
    return EvaluationRecord(
      step: step, generation: generation, languageModelLoss: losses.languageModelLoss,
      diffusionLoss: losses.diffusionLoss, targetTokens: losses.counts.targetTokens, images: losses.counts.images)
  }
}
