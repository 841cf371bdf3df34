import ClusterModel
import Configuration
import Coordinator
import Foundation
import TrainingData
import TransfusionModel
import Wire
import Worker

/// Generated documents and the configuration of a run on them.
struct BenchmarkRunSettings {
  var model: BenchmarkModel
  var microbatches = 8

  /// Patches of RGB pixels, 4 x 4: 48 elements, where the compute benchmark's latents have 32.
  static let patch = 4
  private var imageSize: Int { Int(Double(model.patches).squareRoot().rounded()) * Self.patch }

  /// - Parameter directory: documents as `makeDocuments` wrote them.
  func configuration(documents directory: String) -> RunConfiguration {
    var configuration = RunConfiguration()
    configuration.model = model.configuration
    configuration.model.channels = 3
    configuration.model.latentSize = imageSize
    configuration.model.patch = Self.patch
    configuration.training.precision = model.precision
    configuration.data.directory = directory
    configuration.data.sequenceLength = model.length
    configuration.batch.microbatches = microbatches
    configuration.batch.leaves = min(4, microbatches)
    configuration.batch.sequencesPerMicrobatch = model.rows
    configuration.optimizer.warmupSteps = 10
    configuration.checkpoint.every = 1_000_000
    configuration.checkpoint.keepLast = 2
    return configuration
  }

  /// Writes documents of random content into `directory`, which must not exist.
  func makeDocuments(_ directory: String) throws {
    let sources = directory + "-sources"
    try SyntheticCorpus(images: 256, paragraphs: 2_000, imageSize: imageSize).write(to: sources)
    _ = try Preparation.run(
      PreparationSettings(
        output: directory, images: ["\(sources)/\(SyntheticCorpus.imageFile)"],
        text: ["\(sources)/\(SyntheticCorpus.textFile)"], vocabulary: .trained(pieces: 512), imageSize: imageSize,
        sequenceLength: model.length, patch: Self.patch))
    try FileManager.default.removeItem(atPath: sources)
  }

  var description: [(name: String, value: String)] {
    model.description + [("microbatches", "\(microbatches)")]
  }
}

/// A coordinator and its workers as processes of their own, from the first step to the last, on free loopback ports.
struct TrainingRun {
  var steps: [JournaledStep]
  var checkpoints: [JournaledCheckpoint]
  /// Of each worker, the phases of each step.
  var phases: [[Step: PhaseSeconds]]
  /// What each copied state took of all workers' processors together.
  var copySeconds: [Step: Double] = [:]
  var fingerprint: String
  /// Seconds since 1970 and processor seconds that the coordinator had used by then.
  private var coordinatorSamples: [(at: Double, used: Double)]
  /// The same of all workers together.
  private var workerSamples: [(at: Double, used: Double)]

  /// - Parameters:
  ///   - workers: processes, all on this host.
  ///   - threads: of each.
  ///   - secondsLimit: for the whole run.
  init(
    _ configuration: RunConfiguration, workers: Int, threads: Int, scope: BenchmarkScope, parent: String? = nil,
    secondsLimit: Double = 1200
  ) throws {
    let folder = try scope.directory(in: parent)
    defer { scope.remove(folder) }
    var configuration = configuration
    configuration.parallelism.workers = workers
    let file = folder + "/run.yaml"
    try configuration.yaml.write(toFile: file, atomically: true, encoding: .utf8)
    let run = RunDirectory(folder + "/run")
    let log = folder + "/coordinator.log"
    let coordinator = try scope.start(
      ["coordinator", "start", "--config", file, "--run", run.path, "--listen", "tcp://127.0.0.1:*"], log: log)
    let address = try scope.wait(
      for: "the coordinator's address", seconds: 60, during: [("coordinator", coordinator, log)]
    ) { run.liveCoordinator()?.address }
    let logs = (0..<workers).map { "\(folder)/worker-\($0 + 1).log" }
    let processes = try logs.map {
      try scope.startWorker(joining: address, threads: threads, memoryShare: 0.9 / Double(workers), log: $0)
    }
    var samples: [(at: Double, used: Double)] = []
    var samplesOfWorkers: [(at: Double, used: Double)] = []
    let limit = Date().addingTimeInterval(secondsLimit)
    while coordinator.isRunning, Date() < limit {
      if let used = Self.processorSeconds(coordinator.processIdentifier) {
        samples.append((Date().timeIntervalSince1970, used))
      }
      let used = processes.compactMap { Self.processorSeconds($0.processIdentifier) }
      if used.count == processes.count { samplesOfWorkers.append((Date().timeIntervalSince1970, used.reduce(0, +))) }
      usleep(100_000)
    }
    let timedOut = coordinator.isRunning
    let status = scope.wait(for: coordinator, seconds: 0)
    for process in processes { scope.wait(for: process, seconds: timedOut ? 0 : 20) }
    if timedOut { throw BenchmarkError.timedOut(waitingFor: "a run to end", seconds: secondsLimit) }
    if status != 0 { throw BenchmarkError.failure(of: "coordinator", status, log: log) }

    let journal = try Journal.reading(path: run.journal)
    steps = try journal.steps(0..<Step(Int64.max))
    checkpoints = try journal.checkpoints()
    fingerprint = try journal.fact(.device) ?? "unknown"
    coordinatorSamples = samples
    workerSamples = samplesOfWorkers
    phases = []
    for log in logs {
      var found: [Step: PhaseSeconds] = [:]
      for line in try String(contentsOfFile: log, encoding: .utf8).split(separator: "\n") {
        if let phase = PhaseLine(logLine: line) { found[phase.step] = phase.phases }
        if let copy = CopyLine(logLine: line) { copySeconds[copy.step, default: 0] += copy.processorSeconds }
      }
      phases.append(found)
    }
  }

  /// User and system time of a process; nil once it has ended.
  static func processorSeconds(_ process: pid_t) -> Double? {
    guard let text = try? String(contentsOfFile: "/proc/\(process)/stat", encoding: .utf8),
      // The name, in parentheses, may hold anything; utime and stime are the 12th and 13th field after it.
      let name = text.lastIndex(of: ")")
    else { return nil }
    let fields = text[text.index(after: name)...].split(separator: " ")
    guard fields.count > 12, let user = Double(fields[11]), let system = Double(fields[12]) else { return nil }
    return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
  }

  /// Steps after those that grow buffers.
  func steady(after warmUp: Int) -> ArraySlice<JournaledStep> { steps.dropFirst(warmUp) }

  func stepTrials(after warmUp: Int) -> Trials {
    var trials = Trials()
    for step in steady(after: warmUp) { trials.add(step.seconds) }
    return trials
  }

  /// Processor time of the coordinator over wall time, from the warm-up's last commit to the last one.
  func coordinatorShare(after warmUp: Int) -> Double { share(of: coordinatorSamples, after: warmUp) }

  /// The same of all workers together: of how many cores.
  func workerShare(after warmUp: Int) -> Double { share(of: workerSamples, after: warmUp) }

  private func share(of samples: [(at: Double, used: Double)], after warmUp: Int) -> Double {
    guard warmUp > 0, steps.count > warmUp, let first = steps[warmUp - 1].committedAtSeconds,
      let last = steps.last?.committedAtSeconds
    else { return .nan }
    let inside = samples.filter { $0.at >= first && $0.at <= last }
    guard let begin = inside.first, let end = inside.last, end.at > begin.at else { return .nan }
    return (end.used - begin.used) / (end.at - begin.at)
  }

  /// Of the step's wall time, what the worker that waited longest waited for data.
  func dataWaitShare(after warmUp: Int) -> Double {
    let steady = steady(after: warmUp)
    let total = steady.reduce(0) { $0 + $1.seconds }
    let waited = phases.map { worker in steady.reduce(0.0) { $0 + (worker[$1.record.step]?.data ?? 0) } }.max() ?? .nan
    return waited / total
  }

  /// Seconds of forward and backward of the worker that computes longest, median over the steps.
  func slowestCompute(after warmUp: Int) -> Double { slowest(after: warmUp) { $0.forward + $0.backward } }

  /// The same of what follows the last backward: sums of gradients and of squares, then AdamW.
  func slowestUpdate(after warmUp: Int) -> Double { slowest(after: warmUp) { $0.reduce + $0.update } }

  private func slowest(after warmUp: Int, _ seconds: (PhaseSeconds) -> Double) -> Double {
    phases.map { worker in
      var trials = Trials()
      for step in steady(after: warmUp) {
        if let phase = worker[step.record.step] { trials.add(seconds(phase)) }
      }
      return trials.median
    }.max() ?? .nan
  }
}
