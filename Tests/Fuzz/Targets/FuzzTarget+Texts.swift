import ClusterModel
import Configuration
import Coordinator
import Foundation

/// Texts that people and other processes write.
extension FuzzTarget {
  static let texts = [configuration, coordinatorAddress, status, plan, journal]

  private static func text(_ input: [UInt8]) throws -> String {
    guard let text = String(validating: input, as: UTF8.self) else {
      throw CocoaError(.fileReadInapplicableStringEncoding)
    }
    return text
  }

  private static let configuration = FuzzTarget(
    "configuration", "RunConfiguration.parse, the YAML of a run and of a coordinator's welcome", shape: .text,
    dictionary: RunConfiguration.fields.map(\.key)
      + RunConfiguration.fields.map { $0.key.split(separator: ".")[1] + ": " }
      + ["model:\n", "run:\n", "&a ", "*a", "? ", "true", "bfloat16", "1f1b", "data:\n  directory: x\n"],
    heapLimitBytes: 64 << 20, share: 12,
    examples: { _ in
      var full = RunConfiguration()
      full.data.directory = "data"
      let short = "run:\n  steps: 10 # comment\nmodel: {width: 64, heads: 4}\ndata:\n  directory: \"d\"\n"
      let anchors = "run: &a\n  steps: 0x10\n  seed: 1_000\ndata:\n  directory: |\n    d\nmodel:\n"
      return [("full", Array(full.yaml.utf8)), ("short", Array(short.utf8)), ("anchors", Array(anchors.utf8))]
    }
  ) { _ in
    return { input in
      try outcome {
        let configuration = try RunConfiguration.parse(try text(input), file: "config.yaml")
        // What is made of every configuration before a run begins.
        _ = (configuration.shape, configuration.elementsPerStep, configuration.samplesPerStep)
        _ = (configuration.sampling, configuration.adamW, configuration.assumedLimits)
        let schedule = configuration.learningRate
        for step in [0, 1, configuration.run.steps] {
          try promise(schedule.rate(step).isFinite, "the learning rate of step \(step) is not finite")
        }
        let written = configuration.yaml
        do {
          let again = try RunConfiguration.parse(written, file: "config.yaml")
          try promise(again == configuration, "a configuration that was read is written otherwise")
          try promise(
            RunConfiguration.differences(between: again.identity, and: configuration.identity).isEmpty,
            "a configuration differs from itself")
        } catch let error as ConfigurationError {
          throw BrokenPromise("a configuration that was read and written is refused: \(error)")
        }
      }
    }
  }

  private static let coordinatorAddress = FuzzTarget(
    "coordinator-json", "RunDirectory.liveCoordinator, coordinator.json", shape: .text,
    dictionary: ["\"address\"", "\"processID\"", "\"generation\"", "null"], heapLimitBytes: 32 << 20, share: 30,
    examples: { _ in
      let text = """
        {
          "address" : "tcp://127.0.0.1:5555",
          "generation" : 3,
          "host" : "host",
          "processID" : 4711,
          "run" : "00112233445566778899aabbccddeeff"
        }
        """
      return [("address", Array(text.utf8))]
    }
  ) { folder in
    let directory = RunDirectory(folder)
    let file = try InputFile(folder + "/coordinator.json")
    return { input in
      try file.put(input)
      return try outcome {
        guard directory.liveCoordinator() != nil else { throw CocoaError(.coderReadCorrupt) }
      }
    }
  }

  private static let status = FuzzTarget(
    "status", "StatusReport(json:) and its text, what a coordinator answers", shape: .text,
    dictionary: ["\"version\"", "\"workers\"", "\"plan\"", "\"secondsLeft\"", "null", "1e300", "-1"],
    heapLimitBytes: 64 << 20, share: 30,
    examples: { _ in
      let report = StatusReport(
        run: "00112233445566778899aabbccddeeff", live: true, state: "training", generation: 2, step: 5, totalSteps: 100)
      return [("short", Array(try report.json().utf8))]
    }
  ) { _ in
    return { input in
      try outcome {
        let report = try StatusReport(json: try text(input))
        _ = report.text()
        do { _ = try report.json() } catch { throw BrokenPromise("a report that was read cannot be written: \(error)") }
      }
    }
  }

  /// As the journal stores it, between its columns.
  private static let plan = FuzzTarget(
    "plan-json", "Plan from JSON, as the journal holds it, and what a status makes of it", shape: .text,
    dictionary: ["[", "]", "null", "\"gpipe\"", "\"places\"", "9223372036854775807"], heapLimitBytes: 32 << 20,
    share: 30,
    examples: { _ in
      let plan = Plan(
        stageUnits: [0..<2, 2..<5], replicaLeaves: [0..<4, 4..<8],
        places: [[WorkerID(1), WorkerID(2)], [WorkerID(3), WorkerID(4)]], spares: [WorkerID(5)], schedule: .gpipe)
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys]
      return [("plan", [UInt8](try encoder.encode(plan)))]
    }
  ) { _ in
    return { input in
      try outcome {
        let plan = try JSONDecoder().decode(Plan.self, from: Data(input))
        _ = StatusReport.PlanSummary(plan)
        for worker in 0..<6 { _ = (plan.place(of: WorkerID(UInt32(worker))), plan.rank(of: WorkerID(UInt32(worker)))) }
      }
    }
  }

  /// Another process may have written the database, or a disk may have damaged it.
  private static let journal = FuzzTarget(
    "journal", "StatusReport.offline on a journal of any bytes", shape: .bytes,
    dictionary: ["SQLite format 3\0", "CREATE TABLE", "steps", "INTEGER", "TEXT"], sizeLimit: 1 << 17,
    heapLimitBytes: 64 << 20, share: 5,
    examples: { _ in [] }
  ) { folder in
    let directory = RunDirectory(folder)
    let file = try InputFile(directory.journal)
    return { input in
      var input = input
      // Opened with its log, the database would leave files behind and be another one afterwards.
      if input.count > 19 { (input[18], input[19]) = (1, 1) }
      try file.put(input)
      return try outcome { _ = try StatusReport.offline(directory, now: 0).text() }
    }
  }
}
