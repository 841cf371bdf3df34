import ClusterModel

/// What is wrong with a journal, one finding each.
public enum LedgerProblem: Hashable, Sendable, CustomStringConvertible {
  /// A row whose values cannot be what a coordinator wrote.
  case unreadable(table: String, row: String, reason: String)
  case missingFact(String)
  case missingSteps(Range<Step>)
  case stepRepeated(Step)
  /// Between this step and the one before, or the stream's beginning.
  case samplesLeftOut(Range<UInt64>, before: Step)
  case samplesTwice(Range<UInt64>, by: Step)
  case sampleCount(Step, expected: UInt64, found: UInt64)
  case skippedAndConsumed(Range<UInt64>, by: Step)
  case skipsOverlap(Range<UInt64>, Range<UInt64>)
  /// It neither fills a gap between two steps nor follows the last one, which ends at `nextSample`.
  case skipOutOfPlace(Range<UInt64>, nextSample: UInt64)
  /// `what` names a generation that was never begun.
  case unknownGeneration(Generation, what: String)
  case generationFell(Step, from: Generation, to: Generation)
  /// A generation committed steps, and nobody knows who computed them.
  case planMissing(Generation, firstStep: Step)
  case planBeginsLater(Generation, fromStep: Step, step: Step)
  case plan(Generation, reason: String)
  case counts(Step, reason: String)
  case numbers(Step, reason: String)
  case checkpoint(Step, reason: String)
  case validation(Step, reason: String)

  public var description: String {
    switch self {
    case .unreadable(let table, let row, let reason): "\(table), row \(row): \(reason)"
    case .missingFact(let name): "the fact '\(name)' is missing or no number"
    case .missingSteps(let steps) where steps.upperBound - steps.lowerBound == 1:
      "step \(steps.lowerBound) is missing"
    case .missingSteps(let steps): "steps \(steps.lowerBound) to \(steps.upperBound - 1) are missing"
    case .stepRepeated(let step): "step \(step) is committed more than once"
    case .samplesLeftOut(let range, let step):
      "samples \(range) before step \(step) were consumed by no step and are not skipped"
    case .samplesTwice(let range, let step): "samples \(range) of step \(step) were consumed by a step before"
    case .sampleCount(let step, let expected, let found):
      "step \(step) has \(found) samples; a step of this run has \(expected)"
    case .skippedAndConsumed(let range, let step): "skipped samples \(range) were consumed by step \(step)"
    case .skipsOverlap(let a, let b): "skipped samples \(a) overlap skipped samples \(b)"
    case .skipOutOfPlace(let range, let nextSample):
      "skipped samples \(range) are not where a step would begin: the last step ends at sample \(nextSample)"
    case .unknownGeneration(let generation, let what): "\(what) is of \(generation), which was never begun"
    case .generationFell(let step, let from, let to): "step \(step) is of \(to), the step before of the later \(from)"
    case .planMissing(let generation, let step): "the plan of \(generation), which committed step \(step), is missing"
    case .planBeginsLater(let generation, let from, let step):
      "step \(step) is of \(generation), whose plan begins with step \(from)"
    case .plan(let generation, let reason): "plan of \(generation): \(reason)"
    case .counts(let step, let reason), .numbers(let step, let reason): "step \(step): \(reason)"
    case .checkpoint(let step, let reason): "checkpoint of step \(step): \(reason)"
    case .validation(let step, let reason): "validation of step \(step): \(reason)"
    }
  }
}

/// What a verification found.
public struct LedgerFindings: Hashable, Sendable {
  /// A skipped range with the step that begins after it.
  public struct Skip: Hashable, Sendable {
    public var record: SkipRecord
    public var step: Step
  }
  /// The first problems, in the order in which they were met; at most ``mostProblems``.
  public internal(set) var problems: [LedgerProblem] = []
  /// All of them.
  public internal(set) var problemCount = 0
  /// Steps that were there.
  public internal(set) var steps: UInt64 = 0
  /// Samples that they consumed.
  public internal(set) var samples: UInt64 = 0
  /// Where the stream stands after the last step.
  public internal(set) var nextSample: UInt64 = 0
  /// Generations that committed steps.
  public internal(set) var generations = 0
  public internal(set) var checkpoints = 0
  /// Those in their right place, ascending.
  public internal(set) var skips: [Skip] = []

  public static let mostProblems = 1000
  public var isGood: Bool { problemCount == 0 }

  public mutating func report(_ problem: LedgerProblem) {
    problemCount += 1
    if problems.count < Self.mostProblems { problems.append(problem) }
  }
}
