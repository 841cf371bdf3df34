import Compute
import Configuration
import Foundation
import TrainingData
import TransfusionModel

/// How fast microbatches are made, and how long training waits for them.
public struct DataBenchmark: Sendable {
  public var model: BenchmarkModel
  public var threads: Int
  public var steps: Int

  static let warmUpSteps = 2
  static let measuredSeconds = 2.0

  public init(model: BenchmarkModel, threads: Int, steps: Int) {
    self.model = model
    self.threads = threads
    self.steps = steps
  }

  public func run(scope: BenchmarkScope, progress: (String) -> Void = { _ in }) throws -> BenchmarkReport {
    let settings = BenchmarkRunSettings(model: model)
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    progress("writing documents")
    try settings.makeDocuments(folder + "/documents")
    var configuration = settings.configuration(documents: folder + "/documents")
    configuration.run.steps = UInt64(steps + Self.warmUpSteps)

    progress("making microbatches")
    let source = try configuration.microbatchSource()
    let clock = ContinuousClock()
    let start = clock.now
    var (made, elements) = (0, 0)
    while clock.now - start < .seconds(Self.measuredSeconds) {
      let step = UInt64(made / settings.microbatches)
      elements += try source.microbatch(step: step, index: made % settings.microbatches).tokens.count
      made += 1
    }
    let seconds = (clock.now - start) / .seconds(1)
    progress("training")
    let run = try TrainingRun(configuration, workers: 1, threads: threads, scope: scope)

    var report = BenchmarkReport(
      benchmark: "data", environment: BenchmarkEnvironment(fingerprint: run.fingerprint),
      settings: settings.description + [("threads", "\(threads)"), ("steps", "\(steps)")])
    let step = run.stepTrials(after: Self.warmUpSteps).median
    report.add("microbatchesPerSecond", Double(made) / seconds, "microbatches per second, one thread")
    report.add("elementsPerSecond", Double(elements) / seconds, "tokens and patches per second, one thread")
    report.add("medianStepSeconds", step, "step, median", unit: "s")
    report.add(
      "makingOverTraining", seconds / Double(made) * Double(settings.microbatches) / step,
      "time to make a step's microbatches over the step's")
    report.add(
      "dataWaitShare", run.dataWaitShare(after: Self.warmUpSteps), "waiting for data, of a step")
    return report
  }
}
