import Foundation
import TransfusionModel

/// What checkpoints cost a run of one worker.
public struct CheckpointBenchmark: Sendable {
  public var model: BenchmarkModel
  public var threads: Int
  /// Steps between two checkpoints.
  public var every: Int
  /// Checkpoints that are measured, besides the one at the end of the run.
  public var count: Int
  /// Where to write; the system's temporary directory where nil.
  public var directory: String?

  /// What the share of a checkpoint is reported for.
  static let reportedInterval = 50.0
  static let warmUpSteps = 2

  public init(model: BenchmarkModel, threads: Int, every: Int, count: Int) {
    self.model = model
    self.threads = threads
    self.every = every
    self.count = count
  }

  public func run(scope: BenchmarkScope, progress: (String) -> Void = { _ in }) throws -> BenchmarkReport {
    var settings = BenchmarkRunSettings(model: model)
    settings.microbatches = 2
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    progress("writing documents")
    try settings.makeDocuments(folder + "/documents")
    var configuration = settings.configuration(documents: folder + "/documents")
    configuration.checkpoint.every = UInt64(every)
    // The checkpoint at the end is of a run that waits for it: it is not measured.
    configuration.run.steps = UInt64(every * (count + 1))
    progress("training")
    let run = try TrainingRun(configuration, workers: 1, threads: threads, scope: scope, parent: directory)

    let measured = run.checkpoints.filter { $0.step < configuration.run.steps }
    var waits = Trials()
    for checkpoint in measured { waits.add(run.phases[0][checkpoint.step - 1]?.checkpoint ?? .nan) }
    let quiet = run.stepTrials(after: Self.warmUpSteps).median
    // From the step that the first checkpoint belongs to: what all steps took beyond the median one.
    let affected = run.steps.dropFirst(every - 1).dropLast(1)
    let extra = affected.reduce(0) { $0 + $1.seconds - quiet } / Double(max(measured.count, 1))
    var speeds = Trials()
    for checkpoint in measured {
      guard let begun = run.steps.first(where: { $0.record.step + 1 == checkpoint.step })?.committedAtSeconds else {
        continue
      }
      speeds.add((checkpoint.committedAtSeconds - begun) / Double(checkpoint.sizeBytes))
    }

    var report = BenchmarkReport(
      benchmark: "checkpoint", environment: BenchmarkEnvironment(fingerprint: run.fingerprint),
      settings: settings.description + [
        ("threads", "\(threads)"), ("every", "\(every)"), ("checkpoints", "\(measured.count)"),
      ])
    report.add("medianStepSeconds", quiet, "step, median", unit: "s")
    report.add("waitSeconds", waits.median, "training waits for a checkpoint", unit: "s")
    report.add(
      "waitShare", waits.median / (Self.reportedInterval * quiet), "the wait, of the step time at one in 50 steps")
    report.add("extraSeconds", extra, "steps take longer while one is written, together", unit: "s")
    report.add(
      "extraShare", extra / (Self.reportedInterval * quiet), "wait and slower steps, of the time at one in 50 steps")
    report.add("checkpointBytes", Double(measured.first?.sizeBytes ?? 0), "size of a checkpoint", unit: "bytes")
    report.add(
      "writeMebibytesPerSecond", 1 / speeds.median / 1_048_576, "written, hashed, read back and committed",
      unit: "MiB/s")
    return report
  }
}
