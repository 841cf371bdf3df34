import Compute
import Foundation
import Optimizers
import TransfusionModel

/// One training step of one worker, over and over on one synthetic microbatch: what PyTorch's step is compared
/// with.
public struct ComputeBenchmark: Sendable {
  public var model: BenchmarkModel
  public var threads: Int
  public var steps: Int
  /// Thread i stays on `processors[i]`, the calling thread too.
  public var processors: [Int]?
  public var recompute = Recompute.nothing
  /// Reports the seconds of each part of the step.
  public var phases = false

  public init(model: BenchmarkModel, threads: Int, steps: Int) {
    self.model = model
    self.threads = threads
    self.steps = steps
  }

  /// Steps before the measured ones: the first compiles matrix products and grows scratch memory.
  static let warmUpSteps = 2

  /// - Parameter progress: is told each step's number and seconds as it ends.
  public func run(progress: (Int, Double) -> Void = { _, _ in }) throws -> BenchmarkReport {
    let configuration = model.configuration
    try configuration.validate()
    let batch = SyntheticMicrobatch.make(configuration, rows: model.rows, length: model.length, seed: 1)
    let work = MatrixWork(configuration, batch)
    let type = model.precision.computeType

    let peaks = try PeakMeasurement.measure(
      PeakMeasurement.shapes(configuration, positions: model.rows * model.length), type: type, threads: threads,
      processors: processors,
      secondsEach: 0.3)
    guard let peak = peaks.max(by: { $0.gigaflops < $1.gigaflops }) else { preconditionFailure("no shape measured") }
    /// Of the machine at this moment. Its operands are given back: they are not the step's memory.
    func peakNow() throws -> Double {
      let device = try CPUDevice(threads: threads, processors: processors)
      return try PeakMeasurement.Probe(peak.shape, type: type, on: device).gigaflops(seconds: 0.05)
    }
    let device = try CPUDevice(threads: threads, processors: processors)
    device.tieCaller()

    let step = try TrainingStep(
      configuration, limits: MicrobatchLimits(rows: model.rows, length: model.length, images: batch.images),
      precision: model.precision, recompute: recompute, device: device)
    var trials = Trials()
    // Each step over the floor at the speed just before and after it.
    var overFloor = Trials()
    var seconds: [PhaseTimes] = []
    var memory: Int?
    var before = try peakNow()
    for index in 0..<Self.warmUpSteps + steps {
      PeakMemory.reset()
      let times = try step.run(batch, step: UInt64(index))
      memory = PeakMemory.bytes.map { max($0, memory ?? 0) }
      let after = try peakNow()
      progress(index, times.total)
      if index >= Self.warmUpSteps {
        trials.add(times.total)
        overFloor.add(times.total * (before + after) / 2 * 1e9 / work.total)
        seconds.append(times)
      }
      before = after
    }

    var report = BenchmarkReport(
      benchmark: "compute", environment: BenchmarkEnvironment(fingerprint: device.fingerprint),
      settings: model.description + [("threads", "\(threads)"), ("steps", "\(steps)")])
    let floor = work.total / peak.gigaflops / 1e9
    report.add("medianStepSeconds", trials.median, "step, median", unit: "s")
    report.add("bestStepSeconds", trials.best, "step, best", unit: "s")
    report.add("tokensPerSecond", Double(model.rows * model.length) / trials.median, "tokens per second, median")
    report.add("matrixTeraflop", work.total / 1e12, "matrix work of a step", unit: "TFLOP")
    report.add("peakGigaflops", peak.gigaflops, "peak, measured first", unit: "GFLOP/s")
    report.add("floorSeconds", floor, "matrix work at the peak (floor)", unit: "s")
    report.add("stepOverFloor", trials.median / floor, "step, median, over the floor")
    report.add("stepOverFloorNow", overFloor.median, "step over the floor at the peak around it, median")
    report.add("bestStepOverFloor", trials.best / floor, "step, best, over the floor")
    if let memory { report.add("peakResidentBytes", Double(memory), "largest resident memory", unit: "bytes") }
    report.add("parameters", Double(configuration.parameterCount), "parameters")
    report.add("loss", step.loss, "loss of the last step")
    if phases { addPhases(seconds, work: work, peaks: peaks, to: &report) }
    report.notes.append("the peak is of \(peak.shape.text)")
    if threads > report.environment.cores {
      report.notes.append("\(threads) threads share \(report.environment.cores) cores")
    }
    return report
  }

  /// Medians of each phase, and the speed of each measured product.
  private func addPhases(
    _ seconds: [PhaseTimes], work: MatrixWork, peaks: [PeakMeasurement.Result], to report: inout BenchmarkReport
  ) {
    for phase in PhaseTimes.Phase.allCases {
      var trials = Trials()
      for times in seconds { trials.add(times[phase]) }
      report.add("phases.\(phase.rawValue).seconds", trials.median, "phase: \(phase.label)", unit: "s")
    }
    let layerWork = [
      (PhaseTimes.Phase.forward, work.layers / 3 + work.attention * 2 / 7),
      (.backward, work.layers * 2 / 3 + work.attention * 5 / 7), (.head, work.head),
    ]
    for (phase, flops) in layerWork {
      let median = report["phases.\(phase.rawValue).seconds"] ?? .nan
      report.add("phases.\(phase.rawValue).gigaflops", flops / median / 1e9, "speed: \(phase.label)", unit: "GFLOP/s")
    }
    for result in peaks {
      let shape = result.shape
      let kind = shape.transposeA ? "weight gradient" : shape.transposeB ? "forward" : "backward"
      report.add(
        "products.\(kind.split(separator: " ").joined()).\(shape.rows)x\(shape.columns)x\(shape.inner).gigaflops",
        result.gigaflops, "product: \(shape.text), \(kind)", unit: "GFLOP/s")
    }
  }
}

/// Seconds of the parts of one step.
package struct PhaseTimes {
  package enum Phase: String, CaseIterable {
    case load, forward, head, backward, norm, update

    var label: String {
      switch self {
      case .load: "load the microbatch"
      case .forward: "forward, input side and layers"
      case .head: "head and losses, forward and backward"
      case .backward: "backward, layers and input side"
      case .norm: "sum of squares"
      case .update: "AdamW and compute copies"
      }
    }
  }
  private var seconds = [Double](repeating: 0, count: Phase.allCases.count)
  /// The whole step by one pair of clock readings.
  package var total = 0.0

  package subscript(phase: Phase) -> Double {
    get { seconds[Phase.allCases.firstIndex(of: phase) ?? 0] }
    set { seconds[Phase.allCases.firstIndex(of: phase) ?? 0] = newValue }
  }
}
