import Foundation
import Testing

/// The promise: parameters and optimizer state are the same bits on any topology, stopped or not.
@Suite(.serialized) struct SameBitsTests {
  struct Topology: CustomTestStringConvertible, Sendable {
    var workers: Int
    var stages: Int
    var threads = 1
    var schedule = "1f1b"
    var testDescription: String { "\(workers) workers, \(stages) stages, \(threads) threads, \(schedule)" }
    var overrides: [String] { ["parallelism.stages=\(stages)", "parallelism.schedule=\(schedule)"] }
  }

  @Test(.timeLimit(.minutes(5)), arguments: ["float32", "bfloat16"])
  func everyTopologyEndsInTheSameState(_ precision: String) throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let set = ["training.precision=\(precision)"]
    try TinyRun.train(folder.path("one"), configuration: configuration, workers: 1, set: set)
    let expected = try TinyRun.digest(folder.path("one"))
    let topologies = [
      Topology(workers: 1, stages: 1, threads: 2), Topology(workers: 2, stages: 1), Topology(workers: 3, stages: 1),
      Topology(workers: 2, stages: 2), Topology(workers: 2, stages: 2, schedule: "gpipe"),
      Topology(workers: 3, stages: 3), Topology(workers: 4, stages: 2),
    ]
    for (number, topology) in topologies.enumerated() {
      let run = folder.path("run-\(number)")
      try TinyRun.train(
        run, configuration: configuration, workers: topology.workers, threads: topology.threads,
        set: set + topology.overrides)
      #expect(try TinyRun.digest(run) == expected, "\(topology.testDescription)")
    }
    // Recomputing activations changes memory, never bits.
    for recompute in ["selective", "full"] {
      let run = folder.path("recompute-\(recompute)")
      try TinyRun.train(
        run, configuration: configuration, workers: 2, set: set + ["training.recompute=\(recompute)"])
      #expect(try TinyRun.digest(run) == expected, "\(recompute)")
    }
  }

  /// Where a leaf is one microbatch, its gradient lies where its activations were, unless several are live: with GPipe,
  /// and on all stages but the last.
  @Test(.timeLimit(.minutes(5)), arguments: ["float32", "bfloat16"])
  func leavesOfOneMicrobatchEndInTheSameState(_ precision: String) throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let set = ["training.precision=\(precision)", "batch.leaves=8"]
    let control = Topology(workers: 2, stages: 2, schedule: "gpipe")
    try TinyRun.train(folder.path("gpipe"), configuration: configuration, workers: 2, set: set + control.overrides)
    let expected = try TinyRun.digest(folder.path("gpipe"))
    let topologies = [
      Topology(workers: 1, stages: 1, threads: 2), Topology(workers: 2, stages: 1), Topology(workers: 3, stages: 1),
      Topology(workers: 4, stages: 2), Topology(workers: 8, stages: 1),
    ]
    for (number, topology) in topologies.enumerated() {
      for recompute in number < 2 ? ["none", "selective", "full"] : ["none"] {
        let run = folder.path("run-\(number)-\(recompute)")
        try TinyRun.train(
          run, configuration: configuration, workers: topology.workers, threads: topology.threads,
          set: set + topology.overrides + ["training.recompute=\(recompute)"])
        #expect(try TinyRun.digest(run) == expected, "\(topology.testDescription), \(recompute)")
      }
    }
    // One microbatch for each of two pipelines: the first stages have one live, too. Against one worker with two leaves,
    // of which one has memory of its own.
    let two = ["training.precision=\(precision)", "batch.microbatches=2", "batch.leaves=2"]
    try TinyRun.train(folder.path("two"), configuration: configuration, workers: 1, set: two)
    let stages = Topology(workers: 4, stages: 2)
    try TinyRun.train(
      folder.path("two-pipelines"), configuration: configuration, workers: 4, set: two + stages.overrides)
    #expect(try TinyRun.digest(folder.path("two-pipelines")) == TinyRun.digest(folder.path("two")))
  }

  @Test(.timeLimit(.minutes(5)), arguments: ["float32", "bfloat16"])
  func aRunStoppedAndResumedElsewhereEndsInTheSameState(_ precision: String) throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let set = ["training.precision=\(precision)"]
    try TinyRun.train(folder.path("whole"), configuration: configuration, workers: 1, set: set)
    let expected = try TinyRun.digest(folder.path("whole"))
    let halves: [(Topology, Topology)] = [
      (Topology(workers: 2, stages: 2), Topology(workers: 2, stages: 1)),
      (Topology(workers: 1, stages: 1), Topology(workers: 4, stages: 2)),
      (Topology(workers: 4, stages: 2), Topology(workers: 1, stages: 1)),
    ]
    for (number, (first, second)) in halves.enumerated() {
      let run = folder.path("halves-\(number)")
      try TinyRun.train(
        run, configuration: configuration, workers: first.workers,
        set: set + first.overrides + ["run.stop_after=3"])
      try TinyRun.resume(run, workers: second.workers, set: second.overrides + ["run.stop_after=0"])
      #expect(try TinyRun.digest(run) == expected, "\(first.testDescription) then \(second.testDescription)")
      try accountForEverySample(run)
    }
  }

  /// SIGTERM at an arbitrary moment: the step is finished, a checkpoint written, exit 0, resume goes on.
  @Test(.timeLimit(.minutes(3))) func terminationDrainsAndNothingIsLost() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let longer = ["run.steps=60", "run.seed=12", "checkpoint.every=1000", "validation.every=0"]
    try TinyRun.train(folder.path("whole"), configuration: configuration, workers: 1, set: longer)
    let run = folder.path("terminated")
    let process = try Command.Running(
      ["train", "--config", configuration, "--run", run, "--workers", "2"] + longer.flatMap { ["--set", $0] })
    let reached = process.waitUntil(seconds: 60) {
      TinyRun.committedSteps(run) >= 5
    }
    #expect(reached, "\(process.errorsSoFar)")
    process.process.terminate()
    let result = process.wait(seconds: 30)
    #expect(result.code == 0, "\(result.text)")
    let committed = TinyRun.committedSteps(run)
    #expect(committed < 60, "the run was over before it was told to stop")
    let manifest = run + "/checkpoints/step-" + String(format: "%09d", committed) + "/manifest.json"
    #expect(FileManager.default.fileExists(atPath: manifest), "no checkpoint at step \(committed)")
    try TinyRun.resume(run, workers: 1)
    #expect(try TinyRun.digest(run) == TinyRun.digest(folder.path("whole")))
    try accountForEverySample(run)
  }

  /// Going back to an older checkpoint recomputes committed steps; they must come out the same, once.
  @Test(.timeLimit(.minutes(3))) func resumingFromAnOlderStepReplaysTheSameBits() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let run = folder.path("run")
    try TinyRun.train(run, configuration: configuration, workers: 2)
    let expected = try TinyRun.digest(run)
    let before = try TinyRun.journal(run, "SELECT step, language_model_loss, diffusion_loss FROM steps ORDER BY step")
    try TinyRun.resume(run, workers: 1, from: 2)
    #expect(try TinyRun.digest(run) == expected)
    #expect(
      try TinyRun.journal(run, "SELECT step, language_model_loss, diffusion_loss FROM steps ORDER BY step") == before)
    try accountForEverySample(run)
  }

  /// The journal's committed steps cover each sample once and in order.
  private func accountForEverySample(_ run: String) throws {
    let rows = try TinyRun.journal(
      run, "SELECT step, first_sample, next_sample - first_sample FROM steps ORDER BY step")
    #expect(!rows.isEmpty)
    var next = 0
    for (number, row) in rows.enumerated() {
      let columns = row.split(separator: "|").compactMap { Int($0) }
      #expect(columns.count == 3 && columns[0] == number && columns[1] == next && columns[2] == 16, "\(row)")
      next += columns.count == 3 ? columns[2] : 0
    }
  }
}
