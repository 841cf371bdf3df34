import ClusterModel
import Wire

/// What the shell must do, in the order given; each is done before the next is begun, except that the
/// manifest is committed in the background.
public enum CoordinatorDirective: Hashable, Sendable {
  /// Before anything is sent to the worker: its number is never given again.
  case persistWorker(WorkerRecord)
  /// Before anything of the generation is sent: durable, and refused when the journal has one newer than `after`.
  case persistGeneration(Generation, after: Generation, reason: String)
  /// Before the plan is announced.
  case persistPlan(PlanRecord)
  /// The same to each, in this order.
  case send(Envelope, to: [Connection])
  /// Answer a status client from memory.
  case answerStatus(Connection)
  /// Write the record, make it durable, compare when the journal has that step already; then report
  /// `stepJournaled`, `stepNotReproduced` or `journalFailed`.
  case commitStep(StepRecord)
  /// Before anything is computed that depends on it.
  case recordSkip(SkipRecord)
  /// Before a plan is made without the worker.
  case recordExpulsion(ExpulsionRecord)
  /// The machine is let go and shall not come back under another number: its key is no longer authorised, unless it is
  /// the coordinator's own.
  case revokeKey([UInt8])
  case recordEvaluation(EvaluationRecord)
  /// In the background: verify the parts and write the manifest, then report `checkpointCommitted` or
  /// `checkpointCommitFailed`.
  case commitCheckpoint(CheckpointRequest)
  /// No worker writes to this checkpoint any more and it will not be committed: its files may go.
  case discardCheckpoint(Step)
  /// Delete what the retention setting no longer keeps.
  case applyRetention
  case log(LogLevel, String)
  /// What a member did, for the trace file.
  case recordTrace(Traced, of: WorkerID)
  /// The run is over: let the last messages leave, then return the outcome.
  case finish(Outcome)

  /// Named as in swift-log.
  public enum LogLevel: String, Hashable, Sendable { case debug, info, notice, warning, error }
}

/// A worker's life in this run.
public struct WorkerRecord: Hashable, Sendable, Codable {
  public var worker: WorkerID
  public var generation: Generation
  public var host: String
  public var processID: Int32
  public var deviceFingerprint: String
  public var gigaflopsPerSecond: Double

  public init(
    worker: WorkerID, generation: Generation, host: String, processID: Int32, deviceFingerprint: String,
    gigaflopsPerSecond: Double
  ) {
    self.worker = worker
    self.generation = generation
    self.host = host
    self.processID = processID
    self.deviceFingerprint = deviceFingerprint
    self.gigaflopsPerSecond = gigaflopsPerSecond
  }
}

/// The plan of a generation and the state that it starts from.
public struct PlanRecord: Hashable, Sendable {
  public var generation: Generation
  public var fromStep: Step
  public var plan: Plan
  public var reasons: [String]
  /// `Device.fingerprint` of all workers: no other may compute this run from here on.
  public var deviceFingerprint: String

  public init(
    generation: Generation, fromStep: Step, plan: Plan, reasons: [String], deviceFingerprint: String
  ) {
    self.generation = generation
    self.fromStep = fromStep
    self.plan = plan
    self.reasons = reasons
    self.deviceFingerprint = deviceFingerprint
  }
}

/// A committed step: its samples count from here on, and the state that it makes is decided.
public struct StepRecord: Hashable, Sendable, Codable {
  /// Counted from 0: the step makes state `step + 1`.
  public var step: Step
  public var generation: Generation
  /// Positions in the sample stream that the step consumed.
  public var samples: Range<UInt64>
  /// Positions of all rows, padding included.
  public var tokens: UInt64
  public var targetTokens: UInt64
  public var images: UInt64
  /// Mean over the step's target tokens; nil when it has none.
  public var languageModelLoss: Double?
  /// Mean over the step's images; nil when it has none.
  public var diffusionLoss: Double?
  /// Of the whole gradient before clipping, added in tensor order.
  public var gradientSumOfSquares: Double
  public var learningRate: Double

  public init(
    step: Step, generation: Generation, samples: Range<UInt64>, tokens: UInt64, targetTokens: UInt64, images: UInt64,
    languageModelLoss: Double?, diffusionLoss: Double?, gradientSumOfSquares: Double, learningRate: Double
  ) {
    self.step = step
    self.generation = generation
    self.samples = samples
    self.tokens = tokens
    self.targetTokens = targetTokens
    self.images = images
    self.languageModelLoss = languageModelLoss
    self.diffusionLoss = diffusionLoss
    self.gradientSumOfSquares = gradientSumOfSquares
    self.learningRate = learningRate
  }
  public var gradientNorm: Double { gradientSumOfSquares.squareRoot() }
  /// What was optimised: language-model loss + weight * diffusion loss.
  public func loss(diffusionWeight: Double) -> Double {
    (languageModelLoss ?? 0) + diffusionWeight * (diffusionLoss ?? 0)
  }
}

/// Losses on the validation set of the state after `step` steps.
public struct EvaluationRecord: Hashable, Sendable, Codable {
  public var step: Step
  public var generation: Generation
  public var languageModelLoss: Double?
  public var diffusionLoss: Double?
  public var targetTokens: UInt64
  public var images: UInt64

  public init(
    step: Step, generation: Generation, languageModelLoss: Double?, diffusionLoss: Double?, targetTokens: UInt64,
    images: UInt64
  ) {
    self.step = step
    self.generation = generation
    self.languageModelLoss = languageModelLoss
    self.diffusionLoss = diffusionLoss
    self.targetTokens = targetTokens
    self.images = images
  }
}

/// All parts of a checkpoint are on disk; its manifest is due.
public struct CheckpointRequest: Hashable, Sendable {
  /// The state after so many steps.
  public var step: Step
  public var generation: Generation
  /// The first position of the sample stream that is not in the state.
  public var nextSample: UInt64
  /// Of the workers that computed it.
  public var deviceFingerprint: String
  /// By worker ID.
  public var parts: [CheckpointPart]

  public init(
    step: Step, generation: Generation, nextSample: UInt64, deviceFingerprint: String, parts: [CheckpointPart]
  ) {
    self.step = step
    self.generation = generation
    self.nextSample = nextSample
    self.deviceFingerprint = deviceFingerprint
    self.parts = parts
  }
}

/// How a run ended.
public struct Outcome: Hashable, Sendable, Codable, CustomStringConvertible {
  public enum Kind: String, Hashable, Sendable, Codable {
    /// All steps are done.
    case done
    /// Stopped on request, state saved.
    case drained
    /// Stopped before its state was saved: resume it.
    case requeue
    case configuration
    case data
    /// A peer broke the protocol.
    case peer
    /// A loss or gradient was not finite.
    case numbers
    /// A recomputed step differs from the journal's.
    case notReproducible
    /// Disk or journal.
    case storage
    /// A fault of the program on a worker.
    case software
    /// Another coordinator has taken over the run.
    case superseded

    /// What it means for the workers.
    public var disposition: Stop.Disposition {
      switch self {
      case .done: .done
      // With room on the disk again the run goes on: its workers did nothing wrong.
      case .drained, .requeue, .superseded, .storage: .requeue
      case .configuration, .data, .peer, .numbers, .notReproducible, .software: .failed
      }
    }
  }
  public var kind: Kind
  public var reason: String
  /// Committed steps.
  public var step: Step
  /// State that a resume starts from; nil means from the beginning.
  public var lastCheckpoint: Step?
  public init(kind: Kind, reason: String, step: Step, lastCheckpoint: Step?) {
    self.kind = kind
    self.reason = reason
    self.step = step
    self.lastCheckpoint = lastCheckpoint
  }

  /// The process's exit code (see the README).
  public var exitCode: Int32 {
    switch kind {
    case .done, .drained: 0
    case .data: 65
    case .numbers, .notReproducible, .software: 70
    case .storage: 74
    case .superseded: 69
    case .requeue: 75
    case .peer: 76
    case .configuration: 78
    }
  }
  public var description: String {
    let checkpoint = lastCheckpoint.map { "newest checkpoint: step \($0)" } ?? "no checkpoint yet"
    return "\(reason) (\(step) steps committed, \(checkpoint))"
  }
}
