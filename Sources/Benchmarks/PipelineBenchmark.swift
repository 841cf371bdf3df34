import Foundation
import TransfusionModel

/// Whole runs of coordinator and workers: what dividing a step among processes costs.
public struct PipelineBenchmark: Sendable {
  public var model: BenchmarkModel
  /// Measured steps of each run.
  public var steps: Int
  /// How often each kind of run is started, alternating.
  public var rounds: Int

  static let microbatches = 8
  static let warmUpSteps = 2

  public init(model: BenchmarkModel, steps: Int, rounds: Int) {
    self.model = model
    self.steps = steps
    self.rounds = rounds
  }

  private struct Kind {
    var name: String
    var workers, threads, stages: Int
    var runs: [TrainingRun] = []
    /// Over all measured steps of all runs.
    var trials: Trials {
      var all = Trials()
      for run in runs { for step in run.steady(after: warmUpSteps) { all.add(step.seconds) } }
      return all
    }
  }

  /// - Parameter progress: is told what is being measured.
  public func run(scope: BenchmarkScope, progress: (String) -> Void = { _ in }) throws -> BenchmarkReport {
    let settings = BenchmarkRunSettings(model: model, microbatches: Self.microbatches)
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    let documents = folder + "/documents"
    progress("writing documents")
    try settings.makeDocuments(documents)
    var configuration = settings.configuration(documents: documents)
    configuration.run.steps = UInt64(steps + Self.warmUpSteps)

    var kinds = [
      Kind(name: "1 worker x 2 threads", workers: 1, threads: 2, stages: 1),
      Kind(name: "2 replicas x 1 thread", workers: 2, threads: 1, stages: 1),
      Kind(name: "2 stages x 1 thread", workers: 2, threads: 1, stages: 2),
    ]
    for round in 0..<rounds {
      for index in kinds.indices {
        progress("round \(round + 1) of \(rounds): \(kinds[index].name)")
        configuration.parallelism.stages = kinds[index].stages
        kinds[index].runs.append(
          try TrainingRun(
            configuration, workers: kinds[index].workers, threads: kinds[index].threads, scope: scope))
      }
    }
    return report(kinds, settings)
  }

  private func report(_ kinds: [Kind], _ settings: BenchmarkRunSettings) -> BenchmarkReport {
    let (single, replicas, stages) = (kinds[0], kinds[1], kinds[2])
    var report = BenchmarkReport(
      benchmark: "pipeline", environment: BenchmarkEnvironment(fingerprint: single.runs[0].fingerprint),
      settings: settings.description + [("steps", "\(steps)"), ("rounds", "\(rounds)")])
    let bubble = Double(Self.microbatches + 1) / Double(Self.microbatches)
    let compute = stages.runs.map { $0.slowestCompute(after: Self.warmUpSteps) }.sorted()
    let slowest = compute[compute.count / 2]
    let all = kinds.flatMap(\.runs)
    report.add("oneWorkerStepSeconds", single.trials.median, "1 worker x 2 threads: step, median", unit: "s")
    report.add("replicasStepSeconds", replicas.trials.median, "2 replicas x 1 thread: step, median", unit: "s")
    report.add("stagesStepSeconds", stages.trials.median, "2 stages x 1 thread: step, median", unit: "s")
    report.add(
      "replicasOverOneWorker", single.trials.median / replicas.trials.median, "speed of 2 replicas over 1 worker")
    report.add(
      "bestReplicasOverOneWorker", single.trials.best / replicas.trials.best, "the same of the best steps")
    let sums = replicas.runs.map { $0.slowestUpdate(after: Self.warmUpSteps) }.sorted()
    report.add(
      "slowestReplicaUpdateSeconds", sums[sums.count / 2], "slowest replica's sums and update of a step", unit: "s")
    report.add("slowestStageComputeSeconds", slowest, "slowest stage's forward and backward of a step", unit: "s")
    report.add(
      "stagesStepOverIdeal", stages.trials.median / (slowest * bubble), "step of 2 stages over compute x (8 + 1) / 8")
    // The ideal above has no update, which is the larger share of a step the fewer tokens a step has.
    let updates = stages.runs.map { $0.slowestUpdate(after: Self.warmUpSteps) }.sorted()
    let update = updates[updates.count / 2]
    report.add("slowestStageUpdateSeconds", update, "slowest stage's sums and update of a step", unit: "s")
    report.add(
      "stagesStepOverIdealAndUpdate", stages.trials.median / (slowest * bubble + update),
      "step of 2 stages over compute x (8 + 1) / 8 and the update")
    report.add(
      "coordinatorShare", all.map { $0.coordinatorShare(after: Self.warmUpSteps) }.filter(\.isFinite).max() ?? .nan,
      "coordinator, of a core, at most")
    report.add(
      "dataWaitShare", all.map { $0.dataWaitShare(after: Self.warmUpSteps) }.filter(\.isFinite).max() ?? .nan,
      "waiting for data, of a step, at most")
    report.notes.append("patches are 4 x 4 pixels (48 elements), where `bench compute` has 32")
    if report.environment.cores < 2 { report.notes.append("two workers share one core: the ratios mean nothing") }
    return report
  }
}
