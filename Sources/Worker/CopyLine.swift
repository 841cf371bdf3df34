import ClusterModel
import Foundation

/// What a copy took of a worker, as its log has it at level debug: `copied state 20 in 0.31 processor seconds`.
public struct CopyLine: CustomStringConvertible, Sendable {
  /// The copied state.
  public let step: Step
  /// Of the compute thread, for the snapshot, and of the thread that exchanges it for the ward's.
  public let processorSeconds: Double
  private static let (opening, middle, end) = ("copied state ", " in ", " processor seconds")

  init(step: Step, processorSeconds: Double) {
    self.step = step
    self.processorSeconds = processorSeconds
  }

  /// Reads a line of a worker's log; nil for any other line.
  public init?(logLine: some StringProtocol) {
    guard let start = logLine.range(of: Self.opening),
      let end = logLine.range(of: Self.end, range: start.upperBound..<logLine.endIndex),
      let middle = logLine.range(of: Self.middle, range: start.upperBound..<end.lowerBound),
      let step = Step(logLine[start.upperBound..<middle.lowerBound]),
      let seconds = Double(logLine[middle.upperBound..<end.lowerBound])
    else { return nil }
    self.init(step: step, processorSeconds: seconds)
  }

  public var description: String {
    "\(Self.opening)\(step)\(Self.middle)\(String(format: "%.4f", processorSeconds))\(Self.end)"
  }

  /// What the calling thread has used of a processor so far.
  static var threadSeconds: Double {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
  }
}
