import ClusterModel

/// Tells from committed steps alone whether the loss of the next one is a spike.
///
/// A loss is a spike when it is more than `deviations` deviations above the median of the same loss in the `window`
/// steps right before. The deviation is that of a normal distribution with the same median absolute deviation: one
/// bad step in the window moves neither. Both losses are judged, each by itself. Nothing else goes in, so whoever
/// computes the step again, on whatever workers, decides the same.
public struct LossSpike: Hashable, Sendable, Codable {
  /// Steps before the judged one; with fewer committed there is no judgement.
  public var window: Int
  /// How far above the median a loss may be.
  public var deviations: Double

  /// Standard deviation of a normal distribution over its median absolute deviation.
  static let normalDeviation = 1.4826
  /// The least deviation, as a part of the median: losses that hardly differ must not make every rise a spike.
  static let leastDeviation = 1e-3

  public init(window: Int, deviations: Double) {
    self.window = window
    self.deviations = deviations
  }

  /// Why the step is a spike, as a sentence for the journal; nil when it is none.
  ///
  /// - Parameter earlier: committed steps, at least the newest `window` of them; those that do not lie in the window
  ///   do not count, so that a replay may pass steps after the judged one as well.
  public func isSpike(_ record: StepRecord, after earlier: [StepRecord]) -> String? {
    guard window > 0, record.step >= UInt64(window) else { return nil }
    let recent = earlier.filter { $0.step < record.step && $0.step >= record.step - UInt64(window) }
    guard recent.count == window else { return nil }
    return judge("language-model", record.languageModelLoss, recent.compactMap(\.languageModelLoss))
      ?? judge("diffusion", record.diffusionLoss, recent.compactMap(\.diffusionLoss))
  }

  /// Steps without the loss (no images in them, for example) leave gaps; half of the window must have it.
  private func judge(_ name: String, _ loss: Double?, _ earlier: [Double]) -> String? {
    guard let loss, earlier.count >= (window + 1) / 2 else { return nil }
    let median = Self.median(earlier)
    let deviation = max(
      Self.normalDeviation * Self.median(earlier.map { abs($0 - median) }), Self.leastDeviation * abs(median))
    // Written so that a loss that is no number is a spike.
    guard !(loss <= median + deviations * deviation) else { return nil }
    return "the \(name) loss \(loss) is more than \(deviations) deviations of \(deviation) above \(median), "
      + "the median of the \(window) steps before"
  }

  /// - Precondition: `values` is not empty.
  private static func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    let middle = sorted.count / 2
    return sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : sorted[middle]
  }
}
