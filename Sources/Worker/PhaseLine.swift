import ClusterModel
import Foundation
import Wire

/// Where a worker's step went, as its log has it at level debug: `phases of step 12: {"backward":0.31, ...}`.
public struct PhaseLine: CustomStringConvertible, Sendable {
  public let step: Step
  public let phases: PhaseSeconds
  private static let opening = "phases of step "

  init(_ updated: Updated) {
    step = updated.step
    phases = updated.phases
  }

  /// Reads a line of a worker's log; nil for any other line.
  public init?(logLine: some StringProtocol) {
    guard let start = logLine.range(of: Self.opening) else { return nil }
    let parts = logLine[start.upperBound...].split(separator: ":", maxSplits: 1)
    guard parts.count == 2, let step = Step(parts[0]),
      let phases = try? JSONDecoder().decode(PhaseSeconds.self, from: Data(parts[1].utf8))
    else { return nil }
    self.step = step
    self.phases = phases
  }

  public var description: String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = .sortedKeys
    // Seconds are finite numbers: encoding them cannot fail.
    let text = (try? encoder.encode(phases)).map { String(decoding: $0, as: UTF8.self) } ?? "{}"
    return "\(Self.opening)\(step): \(text)"
  }
}
