import ClusterModel
import ControlPlane
import Foundation

/// A line of the ledger.
public enum LedgerEntry: Hashable, Sendable {
  case step(JournaledStep, computedBy: [Replica])
  case skipped(SkipRecord, before: Step)
  case expelled(ExpulsionRecord)

  /// The leaves of one replica and who computed them.
  public struct Replica: Hashable, Sendable, Codable {
    public var firstLeaf: Int
    public var lastLeaf: Int
    /// By stage.
    public var workers: [Worker]
  }
  public struct Worker: Hashable, Sendable, Codable {
    public var id: UInt32
    /// Empty when the journal does not know the worker.
    public var host: String
    public var stage: Int
  }

  /// Who computed which leaf in a generation; empty without a plan.
  static func replicas(_ contents: LedgerContents, _ generation: Generation) -> [Replica] {
    guard let plan = contents.plans[generation]?.plan else { return [] }
    let hosts = contents.hosts(in: generation)
    return zip(plan.replicaLeaves, plan.places).filter { !$0.0.isEmpty }.map { leaves, places in
      Replica(
        firstLeaf: leaves.lowerBound, lastLeaf: leaves.upperBound - 1,
        workers: places.enumerated().map { stage, worker in
          Worker(id: worker.number, host: hosts[worker] ?? "", stage: stage)
        })
    }
  }

  /// One line of JSON, keys sorted; docs/ledger.md has the fields.
  public func json() throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
    let bytes =
      switch self {
      case .step(let step, let replicas): try encoder.encode(StepLine(step, replicas))
      case .skipped(let skip, let step): try encoder.encode(SkipLine(skip, before: step))
      case .expelled(let expulsion): try encoder.encode(ExpulsionLine(expulsion))
      }
    return String(decoding: bytes, as: UTF8.self)
  }

  private struct StepLine: Encodable {
    let kind = "step"
    var step, generation, firstSample, nextSample, tokens, targetTokens, images: UInt64
    var languageModelLoss, diffusionLoss: Double?
    var gradientNorm, learningRate, seconds: Double
    var committedAtSeconds: Double?
    var computedBy: [Replica]

    init(_ journaled: JournaledStep, _ replicas: [Replica]) {
      let record = journaled.record
      step = record.step
      generation = record.generation.number
      firstSample = record.samples.lowerBound
      nextSample = record.samples.upperBound
      tokens = record.tokens
      targetTokens = record.targetTokens
      images = record.images
      languageModelLoss = record.languageModelLoss
      diffusionLoss = record.diffusionLoss
      gradientNorm = record.gradientNorm
      learningRate = record.learningRate
      seconds = journaled.seconds
      committedAtSeconds = journaled.committedAtSeconds
      computedBy = replicas
    }
  }

  private struct SkipLine: Encodable {
    let kind = "skipped"
    var firstSample, nextSample, generation, beforeStep: UInt64
    var reason: String

    init(_ skip: SkipRecord, before step: Step) {
      firstSample = skip.samples.lowerBound
      nextSample = skip.samples.upperBound
      generation = skip.generation.number
      beforeStep = step
      reason = skip.reason
    }
  }

  private struct ExpulsionLine: Encodable {
    let kind = "expelled"
    var worker: UInt32
    var host, reason: String
    var beforeStep, generation: UInt64

    init(_ expulsion: ExpulsionRecord) {
      worker = expulsion.worker.number
      host = expulsion.host
      beforeStep = expulsion.step
      generation = expulsion.generation.number
      reason = expulsion.reason
    }
  }
}
