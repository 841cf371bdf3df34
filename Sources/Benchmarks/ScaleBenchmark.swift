import ClusterModel
import ControlPlane
import Coordinator
import Foundation
import Wire

#if canImport(Glibc)
  import Glibc
#endif

/// One real coordinator and thousands of simulated workers over TCP: how long it takes until they are together, how long
/// a step's barrier takes, and what the coordinator needs for it.
public struct ScaleBenchmark: Sendable {
  public var workers: Int
  /// Processes that share the workers.
  public var swarms: Int
  /// How long the steady state is watched.
  public var seconds: Double
  /// Between two steps.
  public var pauseSeconds: Double
  /// How many share a connection to the coordinator, as those of `worker join --workers` do.
  public var workersPerHost: Int

  public static let mostWorkersPerHost = Bundle.entriesLimit
  /// Barriers before the watch begins.
  static let warmUpSteps = 2
  static let assemblyPatienceSeconds = 900.0
  /// The word before a barrier's step and seconds in what the coordinator's process writes.
  static let barrierWord = "barrier"
  static let swarmWord = "swarm"
  /// Descriptors that a process needs beside its connections.
  static let otherDescriptors = 64

  public init(workers: Int, swarms: Int, seconds: Double, pauseSeconds: Double, workersPerHost: Int) {
    self.workersPerHost = workersPerHost
    self.workers = workers
    self.swarms = swarms
    self.seconds = seconds
    self.pauseSeconds = pauseSeconds
  }

  // MARK: The coordinator's process

  /// A plan with one stage, and a replica and a leaf for each worker, of a model of three small tensors.
  public static func coordinatorSettings(runDirectory: String, workers: Int) -> CoordinatorSettings {
    let units = (0..<4).map {
      CostUnit(name: "unit \($0)", forwardFlops: 1e6, parameterCount: 1000, activationBytes: 1000)
    }
    return CoordinatorSettings(
      runDirectory: runDirectory, listen: "tcp://127.0.0.1:*", configuration: "model: simulated\n",
      identity: "simulated", expectedWorkers: workers, stages: 1, schedule: .gpipe,
      shape: StepShape(microbatches: workers, leaves: workers), units: units, memory: MemoryModel(),
      tensorShapes: ["a": [2], "b": [3], "c": [1, 2]], totalSteps: 1_000_000_000, samplesPerStep: UInt64(workers),
      tokensPerStep: UInt64(workers) * 64, dataFingerprint: SwarmWorkers.dataFingerprint, learningRate: { _ in 1e-3 },
      denominators: { _ in
        StepDenominators(targetTokens: UInt64(workers) * SwarmWorkers.targetTokens, images: UInt64(workers))
      })
  }

  /// What the coordinator's process writes for each barrier.
  public static func barrierLine(_ step: Step, _ seconds: Double) -> String { "\(barrierWord) \(step) \(seconds)" }
  /// What a swarm's process writes once a second.
  public static func swarmLine(welcomed: Int, beats: Int) -> String {
    "\(swarmWord) \(welcomed) \(beats) \(Date().timeIntervalSince1970)"
  }

  /// As many open files as the system lets this process have.
  /// - Returns: that many.
  @discardableResult public static func raiseDescriptorLimit() -> Int {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return 1_024 }
    limit.rlim_cur = limit.rlim_max
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    return Int(clamping: limit.rlim_max)
  }

  // MARK: The benchmark

  public func run(scope: BenchmarkScope, progress: (String) -> Void = { _ in }) throws -> BenchmarkReport {
    let room = Self.raiseDescriptorLimit() - Self.otherDescriptors
    let workers = min(self.workers, room * workersPerHost)
    let folder = try scope.directory()
    defer { scope.remove(folder) }
    let run = RunDirectory(folder + "/run")
    let log = folder + "/coordinator.log"
    let coordinator = try scope.start(
      ["bench", "scale", "--coordinator-of", run.path, "--workers", "\(workers)"], log: log)
    func wait<Value>(_ what: String, _ seconds: Double, _ condition: () -> Value?) throws -> Value {
      try scope.wait(
        for: what, seconds: seconds, every: 0.1, during: [("coordinator", coordinator, log)], condition)
    }
    let address = try wait("the coordinator's address", 60) {
      run.liveCoordinator()?.address
    }
    let restingBytes = Self.peakBytes(coordinator.processIdentifier) ?? 0
    progress("\(workers) workers join")
    let begun = Date()
    var members: [(process: Process, log: String)] = []
    var first = 0
    for swarm in 0..<swarms {
      // Whole hosts, but for the last one.
      let even = (workers - first) / (swarms - swarm) / workersPerHost * workersPerHost
      let count = swarm + 1 == swarms ? workers - first : even
      let log = "\(folder)/swarm-\(swarm).log"
      members.append(
        (
          try scope.start(
            [
              "bench", "swarm", address, "--first", "\(first)", "--count", "\(count)", "--total", "\(workers)",
              "--pause", "\(pauseSeconds)", "--workers-per-host", "\(workersPerHost)",
            ], log: log), log
        ))
      first += count
    }
    var shown = 0
    let assembled = try wait("the first step", Self.assemblyPatienceSeconds) {
      () -> Double? in
      let welcomed = members.reduce(0) { $0 + Int(Self.newest($1.log)?.welcomed ?? 0) }
      if welcomed - shown >= 1_000 || welcomed == workers && shown < workers {
        shown = welcomed
        progress("\(welcomed) of \(workers) are there after \(Int(Date().timeIntervalSince(begun))) s")
      }
      return Self.barriers(log).isEmpty ? nil : Date().timeIntervalSince(begun)
    }
    _ = try wait("the first steps", 120) {
      Self.barriers(log).count >= Self.warmUpSteps ? true : nil
    }
    progress("watching for \(Int(seconds)) s")
    let before = try sample(coordinator, members)
    let skipped = Self.barriers(log).count
    Thread.sleep(forTimeInterval: seconds)
    let after = try sample(coordinator, members)
    let barriers = Self.barriers(log).dropFirst(skipped).sorted()
    guard coordinator.isRunning, !barriers.isEmpty else {
      throw BenchmarkError.failure(of: "coordinator", scope.wait(for: coordinator, seconds: 1), log: log)
    }
    let text = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
    let lost = text.split(separator: "\n").filter { $0.contains("lost worker") || $0.contains("going on without") }
    guard lost.isEmpty else {
      throw BenchmarkError.wrongResult(reason: "a worker that lived was taken for dead: \(lost[0])")
    }

    var report = BenchmarkReport(
      benchmark: "scale", environment: BenchmarkEnvironment(fingerprint: "no device"),
      settings: [
        ("workers", "\(workers)"), ("workersPerHost", "\(workersPerHost)"), ("swarms", "\(swarms)"),
        ("seconds", "\(seconds)"),
        ("pauseSeconds", "\(pauseSeconds)"), ("heartbeatsPerSecond", "1 a worker"), ("deadSeconds", "2.0"),
      ])
    let watched = after.at - before.at
    report.add("assembleSeconds", assembled, "from no worker to the first step's barrier", unit: "s")
    report.add("barriers", Double(barriers.count), "steps watched")
    report.add("barrierMedianSeconds", Self.quantile(barriers, 0.5), "barrier, median", unit: "s")
    report.add("barrierP99Seconds", Self.quantile(barriers, 0.99), "barrier, p99", unit: "s")
    report.add("barrierWorstSeconds", barriers.last ?? .nan, "barrier, worst", unit: "s")
    report.add("heartbeatsPerSecond", Double(after.beats - before.beats) / watched, "heartbeats", unit: "a second")
    report.add("coordinatorShare", (after.used - before.used) / watched, "coordinator, of a core")
    report.add("swarmShare", (after.swarmUsed - before.swarmUsed) / watched, "the simulated workers, of a core")
    let peak = Self.peakBytes(coordinator.processIdentifier) ?? 0
    report.add("peakResidentBytes", Double(peak), "coordinator, peak resident", unit: "bytes")
    report.add("bytesPerWorker", Double(peak - restingBytes) / Double(workers), "of it, a worker", unit: "bytes")
    if workers < self.workers {
      report.notes.append("the limit of open files allows \(workers) workers instead of \(self.workers)")
    }
    report.notes.append(
      "a barrier is the time from a step's first order to its last worker's report; the simulated workers share the cores"
    )
    if workersPerHost > 1 {
      report.notes.append(
        "\((workers + workersPerHost - 1) / workersPerHost) connections: \(workersPerHost) workers share one, as behind `worker join --workers`; those of one answer at the same time"
      )
    }
    return report
  }

  private struct Sample {
    var at: Double
    var used: Double
    var swarmUsed: Double
    var beats: Int
  }

  private func sample(_ coordinator: Process, _ members: [(process: Process, log: String)]) throws -> Sample {
    let used = TrainingRun.processorSeconds(coordinator.processIdentifier) ?? .nan
    let swarm = members.reduce(0) { $0 + (TrainingRun.processorSeconds($1.process.processIdentifier) ?? .nan) }
    return Sample(
      at: Date().timeIntervalSince1970, used: used, swarmUsed: swarm,
      beats: members.reduce(0) { $0 + (Self.newest($1.log)?.beats ?? 0) })
  }

  private static func lines(_ log: String, _ word: String) -> [[Substring]] {
    ((try? String(contentsOfFile: log, encoding: .utf8)) ?? "").split(separator: "\n").filter { $0.hasPrefix(word) }
      .map { $0.split(separator: " ") }
  }

  private static func barriers(_ log: String) -> [Double] {
    lines(log, barrierWord).compactMap { $0.count == 3 ? Double($0[2]) : nil }
  }

  private static func newest(_ log: String) -> (welcomed: Int, beats: Int)? {
    guard let line = lines(log, swarmWord).last, line.count == 4, let welcomed = Int(line[1]), let beats = Int(line[2])
    else { return nil }
    return (welcomed, beats)
  }

  static func quantile(_ sorted: [Double], _ share: Double) -> Double {
    sorted.isEmpty ? .nan : sorted[min(sorted.count - 1, Int((share * Double(sorted.count)).rounded(.down)))]
  }

  private static func peakBytes(_ process: pid_t) -> Int? {
    guard let text = try? String(contentsOfFile: "/proc/\(process)/status", encoding: .utf8) else { return nil }
    return PeakMemory.bytes(inStatus: text)
  }
}
