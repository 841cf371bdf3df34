import Foundation

/// The learning rate of each step: a linear warm-up to the peak, then half a cosine down to the floor.
public struct LearningRateSchedule: Hashable, Sendable, Codable {
  public var peak: Double
  public var floor: Double
  /// Steps of the warm-up; the last of them has the peak rate. Zero starts at the peak.
  public var warmupSteps: UInt64
  /// Steps of the whole run; the floor is reached at the last and kept after it.
  public var totalSteps: UInt64

  public init(peak: Double, floor: Double, warmupSteps: UInt64, totalSteps: UInt64) {
    self.peak = peak
    self.floor = floor
    self.warmupSteps = warmupSteps
    self.totalSteps = totalSteps
  }

  /// The same rate at every step.
  public static func constant(_ rate: Double) -> LearningRateSchedule {
    LearningRateSchedule(peak: rate, floor: rate, warmupSteps: 0, totalSteps: 0)
  }

  /// The rate of step `step`, counted from 0.
  public func rate(_ step: UInt64) -> Double {
    if step < warmupSteps { return peak * Double(step + 1) / Double(warmupSteps) }
    if step + 1 >= totalSteps { return floor }
    // The step after the warm-up is the first below the peak.
    let progress = Double(step + 1 - warmupSteps) / Double(totalSteps - warmupSteps)
    return floor + (peak - floor) * 0.5 * (1 + cos(Double.pi * progress))
  }
}
