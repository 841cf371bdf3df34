import ClusterModel
import Wire

/// Why the workers' reports of a step cannot be added up.
public enum ReportError: Error, Hashable, Sendable, CustomStringConvertible {
  case microbatchOutOfRange(WorkerID, UInt32, count: Int)
  case microbatchTwice(UInt32)
  case microbatchMissing(Int)
  case tensorOutOfRange(WorkerID, UInt32, count: Int)
  case tensorTwice(UInt32)
  case tensorMissing(Int)
  case denominators(expected: StepDenominators, reported: StepDenominators)
  /// The data index did not say.
  case denominatorsUnknown(reason: String)
  case lossNotFinite(microbatch: UInt32, what: String)
  case gradientNotFinite(tensor: UInt32)

  /// Whether the numbers are at fault rather than the peers.
  public var isNumeric: Bool {
    switch self {
    case .lossNotFinite, .gradientNotFinite: true
    default: false
    }
  }
  public var description: String {
    switch self {
    case .microbatchOutOfRange(let worker, let m, let count):
      "\(worker) reported microbatch \(m), but a step has \(count)"
    case .microbatchTwice(let m): "microbatch \(m) was reported twice"
    case .microbatchMissing(let m): "nobody reported microbatch \(m)"
    case .tensorOutOfRange(let worker, let tensor, let count):
      "\(worker) reported the norm of tensor \(tensor), but the model has \(count)"
    case .tensorTwice(let tensor): "the norm of tensor \(tensor) was reported twice"
    case .tensorMissing(let tensor): "nobody reported the norm of tensor \(tensor)"
    case .denominators(let expected, let reported):
      "the workers counted \(reported.targetTokens) target tokens and \(reported.images) images, "
        + "the data index says \(expected.targetTokens) and \(expected.images)"
    case .denominatorsUnknown(let reason): "the counts of the step cannot be read from the data index: \(reason)"
    case .lossNotFinite(let m, let what): "the \(what) loss of microbatch \(m) is not finite"
    case .gradientNotFinite(let tensor): "the gradient of tensor \(tensor) is not finite"
    }
  }
}

/// Losses added in microbatch order, whoever reported them and whenever.
struct ReportedLosses: Hashable, Sendable {
  var languageModelSum = 0.0
  var diffusionSum = 0.0
  var counts = StepDenominators(targetTokens: 0, images: 0)

  /// Every microbatch of `0 ..< count` must appear exactly once over all reports.
  init(_ reports: [(worker: WorkerID, losses: [MicrobatchLoss])], count: Int) throws(ReportError) {
    var byIndex = [MicrobatchLoss?](repeating: nil, count: count)
    for (worker, losses) in reports {
      for loss in losses {
        guard loss.microbatch < count else {
          throw .microbatchOutOfRange(worker, loss.microbatch, count: count)
        }
        guard byIndex[Int(loss.microbatch)] == nil else { throw .microbatchTwice(loss.microbatch) }
        byIndex[Int(loss.microbatch)] = loss
      }
    }
    for (index, loss) in byIndex.enumerated() {
      guard let loss else { throw .microbatchMissing(index) }
      guard loss.languageModelSum.isFinite else {
        throw .lossNotFinite(microbatch: loss.microbatch, what: "language-model")
      }
      guard loss.diffusionSum.isFinite else { throw .lossNotFinite(microbatch: loss.microbatch, what: "diffusion") }
      languageModelSum += loss.languageModelSum
      diffusionSum += loss.diffusionSum
      counts.targetTokens &+= loss.targetTokens
      counts.images &+= loss.images
    }
  }

  var languageModelLoss: Double? {
    counts.targetTokens == 0 ? nil : languageModelSum / Double(counts.targetTokens)
  }
  var diffusionLoss: Double? { counts.images == 0 ? nil : diffusionSum / Double(counts.images) }

  /// Sums of squares added in tensor order; every tensor of `0 ..< count` exactly once.
  static func sumOfSquares(_ reports: [(worker: WorkerID, norms: [TensorNorm])], count: Int) throws(ReportError)
    -> Double
  {
    var byIndex = [Double?](repeating: nil, count: count)
    for (worker, norms) in reports {
      for norm in norms {
        guard norm.tensor < count else { throw .tensorOutOfRange(worker, norm.tensor, count: count) }
        guard byIndex[Int(norm.tensor)] == nil else { throw .tensorTwice(norm.tensor) }
        byIndex[Int(norm.tensor)] = norm.sumOfSquares
      }
    }
    var sum = 0.0
    for (index, value) in byIndex.enumerated() {
      guard let value else { throw .tensorMissing(index) }
      guard value.isFinite, value >= 0 else { throw .gradientNotFinite(tensor: UInt32(index)) }
      sum += value
    }
    guard sum.isFinite else { throw .gradientNotFinite(tensor: 0) }
    return sum
  }
}
