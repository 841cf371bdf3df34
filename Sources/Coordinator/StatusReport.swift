import Checkpoints
import ClusterModel
import Foundation

/// The answer to `transfusion status --json`; the format is documented in docs/status-json.md and stable.
///
/// Optional values are left out of the JSON where they are not known.
public struct StatusReport: Hashable, Sendable, Codable {
  public static let currentVersion = 1
  /// Rises when a field changes its meaning or goes; new fields do not raise it.
  public var version = StatusReport.currentVersion
  public var run: String
  /// Whether a live coordinator answered; otherwise the journal did.
  public var live: Bool
  /// assembling, regrouping, preparing, training, evaluating, draining, saving, stopping, an outcome's kind, or stopped.
  public var state: String
  public var generation: UInt64
  /// Committed steps.
  public var step: UInt64
  public var totalSteps: UInt64
  /// Sequence elements of the committed steps, padding included.
  public var tokens: UInt64
  public var tokensTotal: UInt64
  /// First sample that no committed step consumed.
  public var samples: UInt64
  public var languageModelLoss: Double?
  public var diffusionLoss: Double?
  public var learningRate: Double?
  /// Before clipping.
  public var gradientNorm: Double?
  /// Means over the newest steps of this process, or of the journal when offline.
  public var tokensPerSecond: Double?
  public var secondsPerStep: Double?
  public var secondsLeft: Double?
  /// The newest checkpoint that a resume can start from.
  public var lastCheckpoint: Checkpoint?
  /// The state that is being written at the moment.
  public var checkpointInFlight: UInt64?
  /// The newest state of which each worker's part is in another one's memory, too.
  public var lastCopy: UInt64?
  /// Committed steps that would have to be computed again if everything stopped now.
  public var stepsToLose: UInt64
  /// Ascending by step; the newest hundred.
  public var validations: [Validation]
  public var plan: PlanSummary?
  public var expectedWorkers: Int?
  /// Why the run waits for workers, when no plan can be made with those that are here.
  public var waitingReason: String?
  /// The worker that the others wait for most; nil with one worker.
  public var slowest: Slowest?
  /// Samples that are skipped for good.
  public var skippedSamples: UInt64?
  /// Workers that were found to compute wrongly, in the order of their numbers.
  public var expelled: [UInt32]?
  public var workers: [Worker]
  /// How the run ended, or ended last time.
  public var outcome: Ending?

  public struct Slowest: Hashable, Sendable, Codable {
    public var worker: UInt32
    /// What it spent most time on: forward, backward, update, data or checkpoint.
    public var phase: String
    /// Of the newest step, waiting left out.
    public var seconds: Double
    public init(worker: UInt32, phase: String, seconds: Double) {
      self.worker = worker
      self.phase = phase
      self.seconds = seconds
    }
  }
  public struct Checkpoint: Hashable, Sendable, Codable {
    public var step: UInt64
    public var secondsAgo: Double?
    public init(step: UInt64, secondsAgo: Double?) {
      self.step = step
      self.secondsAgo = secondsAgo
    }
  }
  public struct Validation: Hashable, Sendable, Codable {
    public var step: UInt64
    public var languageModelLoss: Double?
    public var diffusionLoss: Double?
    public init(step: UInt64, languageModelLoss: Double?, diffusionLoss: Double?) {
      self.step = step
      self.languageModelLoss = languageModelLoss
      self.diffusionLoss = diffusionLoss
    }
  }
  public struct PlanSummary: Hashable, Sendable, Codable {
    public var replicas: Int
    public var stages: Int
    public var schedule: String
    /// First and last model unit of each stage.
    public var stageUnits: [[Int]]
    /// First and last leaf of each replica.
    public var replicaLeaves: [[Int]]
    public init(_ plan: Plan) {
      replicas = plan.replicaCount
      stages = plan.stageCount
      schedule = plan.schedule.rawValue
      stageUnits = plan.stageUnits.map { [$0.lowerBound, $0.upperBound &- 1] }
      replicaLeaves = plan.replicaLeaves.map { [$0.lowerBound, $0.upperBound &- 1] }
    }
  }
  public struct Worker: Hashable, Sendable, Codable {
    public var id: UInt32
    public var host: String
    public var rank: Int?
    public var stage: Int?
    public var replica: Int?
    /// joined, asked, preparing, ready, working, waiting, spare, leaving, suspected, or gone when offline.
    public var state: String
    /// What the worker says it is doing.
    public var phase: String
    public var microbatchesPerSecond: Double
    public var memoryBytes: UInt64
    public var memoryLimitBytes: UInt64?
    public init(
      id: UInt32, host: String, rank: Int?, stage: Int?, replica: Int?, state: String, phase: String,
      microbatchesPerSecond: Double, memoryBytes: UInt64, memoryLimitBytes: UInt64?
    ) {
      self.id = id
      self.host = host
      self.rank = rank
      self.stage = stage
      self.replica = replica
      self.state = state
      self.phase = phase
      self.microbatchesPerSecond = microbatchesPerSecond
      self.memoryBytes = memoryBytes
      self.memoryLimitBytes = memoryLimitBytes
    }
  }
  public struct Ending: Hashable, Sendable, Codable {
    /// done, drained, requeue, superseded, configuration, data, peer, numbers, notReproducible, storage or software.
    public var kind: String
    public var reason: String
    public var exitCode: Int32
    public init(kind: String, reason: String, exitCode: Int32) {
      self.kind = kind
      self.reason = reason
      self.exitCode = exitCode
    }
  }

  public init(run: String, live: Bool, state: String, generation: UInt64, step: UInt64, totalSteps: UInt64) {
    self.run = run
    self.live = live
    self.state = state
    self.generation = generation
    self.step = step
    self.totalSteps = totalSteps
    tokens = 0
    tokensTotal = 0
    samples = 0
    stepsToLose = 0
    validations = []
    workers = []
  }

  /// One line of JSON, keys sorted.
  public func json() throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(self), as: UTF8.self)
  }
  public init(json: String) throws {
    self = try JSONDecoder().decode(StatusReport.self, from: Data(json.utf8))
  }

  mutating func setProgress(_ step: JournaledStep?, recent: [JournaledStep]) {
    languageModelLoss = step?.record.languageModelLoss
    diffusionLoss = step?.record.diffusionLoss
    learningRate = step?.record.learningRate
    gradientNorm = step?.record.gradientNorm
    let seconds = recent.reduce(0) { $0 + $1.seconds }
    guard seconds > 0, !recent.isEmpty else { return }
    tokensPerSecond = Double(recent.reduce(0) { $0 + $1.record.tokens }) / seconds
    secondsPerStep = seconds / Double(recent.count)
    secondsLeft = step.map { _ in seconds / Double(recent.count) * Double(totalSteps - min(self.step, totalSteps)) }
  }
}

extension StatusReport {
  /// How many steps the means are over.
  static let recentSteps = 20

  /// What the journal of a run directory says when no coordinator is alive.
  public static func offline(_ directory: RunDirectory, now: Double) throws(CoordinatorError) -> StatusReport {
    guard directory.hasJournal else { throw .notARun(path: directory.path) }
    let journal = try Journal.reading(path: directory.journal)
    let step = try journal.committedSteps()
    let total = try journal.fact(.totalSteps).flatMap { UInt64($0) } ?? step
    let generation = try journal.newestGeneration()
    var report = StatusReport(
      run: try journal.fact(.run) ?? "", live: false, state: "stopped", generation: generation.number, step: step,
      totalSteps: total)
    let tokensPerStep = try journal.fact(.tokensPerStep).flatMap { UInt64($0) } ?? 0
    report.tokens = step &* tokensPerStep
    report.tokensTotal = total &* tokensPerStep
    let recent = try journal.newestSteps(recentSteps)
    report.samples = recent.last?.record.samples.upperBound ?? 0
    report.setProgress(recent.last, recent: recent)
    if let checkpoint = try newestCheckpoint(in: directory) {
      let at = try journal.checkpoints().first { $0.step == checkpoint }?.committedAtSeconds
      report.lastCheckpoint = Checkpoint(step: checkpoint, secondsAgo: at.map { max(0, now - $0) })
    }
    report.stepsToLose = step - min(step, report.lastCheckpoint?.step ?? 0)
    report.validations = try journal.validations().suffix(100).map {
      Validation(step: $0.step, languageModelLoss: $0.languageModelLoss, diffusionLoss: $0.diffusionLoss)
    }
    let newest = try journal.newestPlan()
    report.plan = newest.map { PlanSummary($0.plan) }
    if let plan = newest?.plan {
      report.workers = try journal.workers(in: plan).map { record in
        let place = plan.place(of: record.worker)
        return Worker(
          id: record.worker.number, host: record.host, rank: plan.rank(of: record.worker), stage: place?.stage,
          replica: place?.replica, state: "gone", phase: "", microbatchesPerSecond: 0, memoryBytes: 0,
          memoryLimitBytes: nil)
      }
    }
    if let text = try journal.fact(.outcome), let ending = try? JSONDecoder().decode(Ending.self, from: Data(text.utf8))
    {
      report.outcome = ending
      report.state = ending.kind
    }
    return report
  }

  /// The manifest on disk is what counts: the journal remembers checkpoints that are gone.
  private static func newestCheckpoint(in directory: RunDirectory) throws(CoordinatorError) -> Step? {
    do throws(CheckpointError) {
      return try CheckpointStore(directory: directory.checkpoints).newestCommitted()
    } catch {
      switch error {
      case .noCheckpoint, .noneUsable: return nil
      default: throw .unreadableCheckpoints(error)
      }
    }
  }
}
