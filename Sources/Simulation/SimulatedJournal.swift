import ClusterModel
import ControlPlane

/// The run's journal on a virtual disk: transactions that happen whole or not at all, at one moment.
///
/// Mirrors `Coordinator/Journal`: the same questions, the same refusals.
struct SimulatedJournal {
  struct Contents {
    /// Steps in order: `steps[s].step == s`.
    var steps: [StepRecord] = []
    var newestGeneration = Generation(0)
    var newestWorker: UInt32 = 0
    var evaluations: [EvaluationRecord] = []
    var checkpoints: Set<Step> = []
    var skips: [Range<UInt64>] = []
    var expelled: Set<WorkerID> = []
    var device: String?
    /// Who has a place in the newest plan.
    var placed: Set<WorkerID> = []
  }
  private(set) var contents = Contents()
  /// What is really on the disk, once it has lied.
  private var flushed: Contents?

  enum Transaction {
    case begin
    case worker(WorkerRecord)
    case generation(Generation, after: Generation)
    case plan(PlanRecord)
    case step(StepRecord)
    case evaluation(EvaluationRecord)
    case skip(SkipRecord)
    case expulsion(ExpulsionRecord)

    /// The one that its coordinator is in.
    var generation: Generation {
      switch self {
      case .begin: Generation(0)
      case .worker(let record): record.generation
      case .generation(_, let previous): previous
      case .plan(let record): record.generation
      case .step(let record): record.generation
      case .evaluation(let record): record.generation
      case .skip(let record): record.generation
      case .expulsion(let record): record.generation
      }
    }
  }
  enum Outcome: Equatable {
    case done
    case began(Generation)
    /// A newer generation is there.
    case fenced(Generation)
    case differs(String)
    case noSpace
  }

  mutating func perform(
    _ transaction: Transaction, isFull: Bool, isLying: Bool, planted: PlantedBug
  ) -> Outcome {
    if isFull { return .noSpace }
    // The next honest flush makes everything durable.
    if isLying, flushed == nil { flushed = contents } else if !isLying { flushed = nil }
    if case .begin = transaction {
      let next = planted.contains(.reuseGeneration) && contents.newestGeneration.number > 0
      contents.newestGeneration = next ? contents.newestGeneration : contents.newestGeneration.next
      return .began(contents.newestGeneration)
    }
    if !planted.contains(.skipFence), transaction.generation < contents.newestGeneration {
      return .fenced(contents.newestGeneration)
    }
    switch transaction {
    case .begin: break
    case .worker(let record): contents.newestWorker = max(contents.newestWorker, record.worker.number)
    case .generation(let generation, _): contents.newestGeneration = max(contents.newestGeneration, generation)
    case .plan(let record):
      contents.device = record.deviceFingerprint
      contents.placed = Set(record.plan.places.joined())
    case .step(let record): return commit(record)
    case .skip(let record):
      contents.skips.append(record.samples)
    case .expulsion(let record): contents.expelled.insert(record.worker)
    case .evaluation(let record):
      if !contents.evaluations.contains(where: { $0.step == record.step }) { contents.evaluations.append(record) }
    }
    return .done
  }

  private mutating func commit(_ record: StepRecord) -> Outcome {
    let count = Step(contents.steps.count)
    if record.step < count {
      let old = contents.steps[Int(record.step)]
      return Self.isSame(old, record) ? .done : .differs("step \(record.step): \(old) became \(record)")
    }
    guard record.step == count else { return .differs("step \(record.step) cannot follow \(count) steps") }
    contents.steps.append(record)
    return .done
  }

  static func isSame(_ a: StepRecord, _ b: StepRecord) -> Bool {
    a.samples == b.samples && a.targetTokens == b.targetTokens && a.images == b.images
      && a.languageModelLoss?.bitPattern == b.languageModelLoss?.bitPattern
      && a.diffusionLoss?.bitPattern == b.diffusionLoss?.bitPattern
      && a.gradientSumOfSquares.bitPattern == b.gradientSumOfSquares.bitPattern
      && a.learningRate.bitPattern == b.learningRate.bitPattern
  }

  mutating func note(checkpoint: Step) {
    contents.checkpoints.insert(checkpoint)
    flushed?.checkpoints.insert(checkpoint)
  }

  /// Power is gone.
  /// - Returns: whether anything was lost.
  mutating func losePower() -> Bool {
    guard let flushed else { return false }
    contents = flushed
    self.flushed = nil
    return true
  }
}
