import ClusterModel
import Coordinator
import Foundation
import TransfusionModel

/// How soon a run goes on after a death or a hang, how soon a new worker takes part, and what being ready for that costs
/// when nothing happens.
public struct RecoveryBenchmark: Sendable {
  /// Times that each fault is brought about.
  public var rounds: Int
  /// The model of the runs without faults, whose cost of heartbeats, journal and copies is measured.
  public var model: BenchmarkModel
  /// Runs with and without copies, alternating; 0 leaves this part out.
  public var pairs: Int
  /// Measured steps of each of these runs.
  public var steps: Int

  /// Of the runs with faults: a step is a fraction of a second, so that what is measured is not the step.
  static let faultSettings = BenchmarkRunSettings(
    model: BenchmarkModel(preset: .tiny, rows: 1, length: 64, patches: 16, precision: .float32))
  static let faultVocabulary = 4_096
  static let warmUpSteps = 2
  /// Steps between two copies by default: what a copy costs is shared by so many.
  static let copyEvery = 10
  /// Steps between two copies while their cost is measured, so that there are more of them.
  static let measuredCopyEvery = 4
  /// Copies until their memory is used again: two that are kept and one that is being made.
  static let firstCopies = 3
  /// The fewest measured steps with two copies that use memory again.
  public static let leastSteps = measuredCopyEvery * (firstCopies + 2)
  /// Of the runs without faults: one a worker.
  private static let cores = 2
  /// Commits after which the run counts as steady again.
  static let steadyCommits = 4
  static let journaledRecords = 200

  public init(
    rounds: Int, model: BenchmarkModel, pairs: Int, steps: Int
  ) {
    self.rounds = rounds
    self.model = model
    self.pairs = pairs
    self.steps = steps
  }

  /// What one fault or join led to.
  private struct Recovery {
    /// From the event to the new generation's beginning, as the journal has it.
    var detection: Double
    /// From the event to the first commit of a later generation.
    var commit: Double
    /// Committed steps that were computed once more.
    var again: Int
  }
  private struct Joining {
    /// From the hello to the plan that counts the worker in.
    var plan: Double
    /// From there to the first step's beginning: state, buffers, connections.
    var transfer: Double
    /// From the hello to that step's commit.
    var commit: Double
  }

  public func run(scope: BenchmarkScope, progress: (String) -> Void = { _ in }) throws -> BenchmarkReport {
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    progress("writing documents")
    try Self.faultSettings.makeDocuments(folder + "/documents")
    var configuration = Self.faultSettings.configuration(documents: folder + "/documents")
    configuration.run.steps = 100_000_000
    configuration.model.vocabulary = Self.faultVocabulary
    let live = try LiveRun(configuration, workers: 2, scope: scope)
    var killed: [Recovery] = []
    var stopped: [Recovery] = []
    var restarted: [Recovery] = []
    var joined: [Joining] = []
    for round in 0..<rounds {
      let name = "round \(round + 1) of \(rounds)"
      progress("\(name): kill -9 of a worker")
      try awaitSteady(live)
      killed.append(
        try recovery(live) {
          let (worker, at) = live.signalOldestWorker(SIGKILL)
          live.bury(worker)
          return at
        })
      progress("\(name): a worker joins")
      joined.append(try joining(live))
      progress("\(name): a worker is stopped")
      try awaitSteady(live)
      var stoppedWorker: LiveRun.Member?
      stopped.append(
        try recovery(live) {
          let (worker, at) = live.signalOldestWorker(SIGSTOP)
          stoppedWorker = worker
          return at
        })
      if let stoppedWorker { live.bury(stoppedWorker) }
      progress("\(name): a worker joins")
      joined.append(try joining(live))
      progress("\(name): kill -9 of the coordinator")
      try awaitSteady(live)
      restarted.append(try recovery(live) { try live.restartCoordinator() })
    }
    let fingerprint = try live.journal.fact(.device) ?? "unknown"
    var faultSteps = Trials()
    for step in try live.journal.newestSteps(50) { faultSteps.add(step.seconds) }
    live.end()

    let settings = BenchmarkRunSettings(model: model)
    var report = BenchmarkReport(
      benchmark: "recovery", environment: BenchmarkEnvironment(fingerprint: fingerprint),
      settings: [
        ("rounds", "\(rounds)"), ("workers", "2 replicas x 1 thread"),
        ("faultPreset", "tiny, vocabulary \(Self.faultVocabulary), 8 x 1 x 64, float32"),
        ("suspectSeconds", "\(configuration.cluster.suspectSeconds)"),
        ("deadSeconds", "\(configuration.cluster.deadSeconds)"), ("copyEvery", "\(Self.copyEvery)"),
        ("pairs", "\(pairs)"), ("steadySteps", "\(steps)"),
      ] + settings.description)
    report.add("faultStepSeconds", faultSteps.median, "step of the run with faults, median", unit: "s")
    add(killed, "killedWorker", "kill -9 of a worker", to: &report)
    add(stopped, "stoppedWorker", "SIGSTOP of a worker", to: &report)
    add(restarted, "killedCoordinator", "kill -9 of the coordinator, started at once", to: &report)
    add(joined, to: &report)
    if pairs > 0 { try measureSteadyState(settings, folder, scope, progress, &report) }
    if report.environment.cores < 2 { report.notes.append("two workers share one core") }
    return report
  }

  // MARK: Faults

  /// Both workers have a place and the newest generation has committed some steps.
  private func awaitSteady(_ live: LiveRun) throws {
    _ = try live.wait(for: "steps of two workers") { () -> Bool? in
      guard let plan = try live.journal.newestPlan(), plan.plan.replicaCount == 2 else { return nil }
      let steps = try live.journal.newestSteps(Self.steadyCommits)
      return steps.count == Self.steadyCommits && steps.allSatisfy { $0.record.generation == plan.generation }
        ? true : nil
    }
  }

  /// - Parameter event: brings it about and returns when, in seconds since 1970.
  private func recovery(_ live: LiveRun, event: () throws -> Double) throws -> Recovery {
    let generation = try live.journal.newestGeneration()
    let before = try live.journal.committedSteps()
    let at = try event()
    let first = try firstStep(live, after: generation, from: before)
    let begun = try live.journal.beginning(of: generation.next) ?? .nan
    let again = LiveRun.lines(live.coordinator.log).reduce(0) { sum, line in
      guard line.at >= at, line.text.contains("beginning with the state"),
        let match = line.text.firstMatch(of: #/; (\d+) committed steps? (?:is|are) computed again/#)
      else { return sum }
      return sum + (Int(match.1) ?? 0)
    }
    return Recovery(detection: begun - at, commit: (first.committedAtSeconds ?? .nan) - at, again: again)
  }

  private func joining(_ live: LiveRun) throws -> Joining {
    let generation = try live.journal.newestGeneration()
    let before = try live.journal.committedSteps()
    let worker = try live.join()
    let first = try firstStep(live, after: generation, from: before)
    guard let committed = first.committedAtSeconds,
      let hello = LiveRun.lines(worker.log).first(where: { $0.text.contains("saying hello") })?.at,
      let plan = LiveRun.lines(live.coordinator.log).last(where: { $0.text.contains("beginning with the state") })?.at
    else { throw BenchmarkError.wrongResult(reason: "the logs do not say when a worker joined") }
    return Joining(plan: plan - hello, transfer: committed - first.seconds - plan, commit: committed - hello)
  }

  private func firstStep(_ live: LiveRun, after generation: Generation, from step: Step) throws -> JournaledStep {
    try live.wait(for: "a commit after \(generation)") {
      guard let newest = try live.journal.newestSteps(1).last, newest.record.generation > generation else { return nil }
      return try live.journal.steps(step..<newest.record.step + 1).first { $0.record.generation > generation }
    }
  }

  private func add(_ recoveries: [Recovery], _ key: String, _ label: String, to report: inout BenchmarkReport) {
    addTrials(recoveries.map(\.commit), "\(key).seconds", "\(label): to the next commit", to: &report)
    addTrials(
      recoveries.map(\.detection), "\(key).detectionSeconds", "\(label): until a new generation begins", to: &report)
    report.add(
      "\(key).stepsAgain", Double(recoveries.map(\.again).max() ?? 0), "\(label): steps computed again, at most")
  }

  private func add(_ joined: [Joining], to report: inout BenchmarkReport) {
    addTrials(joined.map(\.plan), "join.seconds", "hello to the plan with the new worker", to: &report)
    addTrials(
      joined.map(\.transfer), "join.transferSeconds", "state, buffers, connections until it begins", to: &report)
    addTrials(
      joined.map { $0.plan + $0.transfer }, "join.firstMicrobatchSeconds",
      "hello to its first microbatch, all included",
      to: &report)
    addTrials(joined.map(\.commit), "join.commitSeconds", "hello to the first commit with it", to: &report)
  }

  private func addTrials(_ seconds: [Double], _ key: String, _ label: String, to report: inout BenchmarkReport) {
    var trials = Trials()
    for value in seconds { trials.add(value) }
    report.add(key, trials.median, "\(label), median", unit: "s")
    report.add("\(key)Worst", seconds.max() ?? .nan, "\(label), worst", unit: "s")
  }

  // MARK: When nothing happens

  private func measureSteadyState(
    _ settings: BenchmarkRunSettings, _ folder: String, _ scope: BenchmarkScope, _ progress: (String) -> Void,
    _ report: inout BenchmarkReport
  ) throws {
    let documents = folder + "/steady"
    progress("writing documents")
    try settings.makeDocuments(documents)
    var configuration = settings.configuration(documents: documents)
    configuration.run.steps = UInt64(steps + Self.warmUpSteps)
    var runs: [(with: TrainingRun, without: TrainingRun)] = []
    for pair in 0..<pairs {
      progress("pair \(pair + 1) of \(pairs): copies every \(Self.measuredCopyEvery) steps")
      configuration.checkpoint.copyEvery = UInt64(Self.measuredCopyEvery)
      let with = try TrainingRun(configuration, workers: 2, threads: 1, scope: scope)
      progress("pair \(pair + 1) of \(pairs): no copies")
      configuration.checkpoint.copyEvery = 0
      runs.append((with, try TrainingRun(configuration, workers: 2, threads: 1, scope: scope)))
    }
    var quiet = Trials()
    var ratios = Trials()
    var (extra, copies, firstCopies) = (Trials(), Trials(), Trials())
    var coordinator = Trials()
    for (with, without) in runs {
      for step in without.steady(after: Self.warmUpSteps) { quiet.add(step.seconds) }
      ratios.add(with.stepTrials(after: Self.warmUpSteps).mean / without.stepTrials(after: Self.warmUpSteps).mean)
      for seconds in slowerSteps(with) { extra.add(seconds) }
      for (place, copy) in with.copySeconds.sorted(by: { $0.key < $1.key }).enumerated() {
        if place < Self.firstCopies { firstCopies.add(copy.value) } else { copies.add(copy.value) }
      }
      for run in [with, without] { coordinator.add(run.coordinatorShare(after: Self.warmUpSteps)) }
    }
    let journal = try journalTrials(runs[0].with, scope)
    let parameters = settings.configuration(documents: documents).model.parameterCount
    report.add("parameters", Double(parameters), "parameters of the model without faults")
    report.add("stepSeconds", quiet.median, "its step without copies, median", unit: "s")
    // Both cores are busy: what a copy takes of the processors, training does not get.
    let copyOfStep = copies.median / Double(Self.cores * Self.copyEvery)
    report.add("copySeconds", copies.median, "a copy, processor time of both workers, median", unit: "s")
    report.add(
      "copySecondsPerStep", copyOfStep, "of it a step: shared by two cores and ten steps", unit: "s")
    report.add(
      "firstCopySeconds", firstCopies.median, "each of the first three, whose memory the system gives, median",
      unit: "s")
    report.add("slowerStepsSeconds", extra.median, "the two steps after a copy, beyond the others, median", unit: "s")
    report.add("journalSeconds", journal.median, "journal, a step, median", unit: "s")
    report.add("journalSecondsWorst", journal.seconds.max() ?? .nan, "journal, a step, worst", unit: "s")
    report.add("coordinatorShare", coordinator.seconds.max() ?? .nan, "coordinator, of a core, at most")
    let cost = copyOfStep + journal.median
    let coordinating = (coordinator.seconds.max() ?? .nan) / Double(Self.cores)
    report.add("costShare", cost / quiet.median + coordinating, "all of it, of a step")
    report.add(
      "pairRatio", ratios.median,
      "runs with copies every \(Self.measuredCopyEvery) steps over runs without, mean steps, median")
    report.add("pairRatioLeast", ratios.best, "the same, least")
    report.add("pairRatioMost", ratios.seconds.max() ?? .nan, "the same, most")
    report.notes.append(
      "processor time of copies (without that of the I/O threads, which here pass on where they lie) and of the "
        + "coordinator counts as taken from two busy cores; what copies cost in caches and memory only the steps after "
        + "them tell")
  }

  /// What the two steps after each copy took beyond the run's median step.
  private func slowerSteps(_ run: TrainingRun) -> [Double] {
    let steady = run.steady(after: Self.warmUpSteps)
    let median = run.stepTrials(after: Self.warmUpSteps).median
    return steady.filter { $0.record.step % UInt64(Self.measuredCopyEvery) == 0 }.compactMap { first in
      guard let second = steady.first(where: { $0.record.step == first.record.step + 1 }) else { return nil }
      return first.seconds + second.seconds - 2 * median
    }
  }

  /// Seconds of single commits into a journal of its own on the same file system.
  private func journalTrials(_ run: TrainingRun, _ scope: BenchmarkScope) throws -> Trials {
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    let journal = try Journal(path: folder + "/journal.sqlite")
    let generation = try journal.beginGeneration(host: "bench", processID: 1, at: 0)
    guard var record = run.steps.first?.record else { throw BenchmarkError.wrongResult(reason: "no steps") }
    record.generation = generation
    let count = record.samples.upperBound - record.samples.lowerBound
    var trials = Trials()
    let clock = ContinuousClock()
    for step in 0..<Self.journaledRecords {
      record.step = Step(step)
      record.samples = UInt64(step) * count..<UInt64(step + 1) * count
      let begun = clock.now
      guard case .committed = try journal.commit(record, seconds: 1, at: 1) else {
        throw BenchmarkError.wrongResult(reason: "a step was not committed")
      }
      trials.add((clock.now - begun) / .seconds(1))
    }
    return trials
  }
}
