import Foundation
import Testing

/// `--trace`: everything that workers do is in it, on rows that make sense, and the file is what viewers read.
@Suite(.serialized) struct TraceTests {
  struct Span {
    var name: String
    var process: Int
    var row: Int
    var start: Double
    var end: Double
    var step: Int
    var microbatch: Int?
  }

  private func spans(_ events: [[String: Any]]) -> [Span] {
    events.compactMap { event in
      guard event["ph"] as? String == "X", let name = event["name"] as? String, let process = event["pid"] as? Int,
        let row = event["tid"] as? Int, let start = event["ts"] as? Double, let duration = event["dur"] as? Double,
        let arguments = event["args"] as? [String: Any], let step = arguments["step"] as? Int
      else { return nil }
      return Span(
        name: name, process: process, row: row, start: start, end: start + duration, step: step,
        microbatch: arguments["microbatch"] as? Int)
    }
  }

  private func events(_ path: String) throws -> [[String: Any]] {
    let data = try Data(contentsOf: URL(filePath: path))
    return try #require(try JSONSerialization.jsonObject(with: data) as? [[String: Any]])
  }

  /// Row by row in order of time, without overlap (but for the rounding of microseconds to three decimals).
  private func expectNoOverlap(_ spans: [Span]) {
    let rows = Dictionary(grouping: spans) { "\($0.process) \($0.row)" }
    for (row, list) in rows {
      let sorted = list.sorted { $0.start < $1.start }
      for (a, b) in zip(sorted, sorted.dropFirst()) {
        #expect(b.start >= a.end - 0.002, "row \(row): \(a) and \(b)")
      }
    }
  }

  @Test(.timeLimit(.minutes(3))) func twoStagesOfTwoReplicasAreAllInIt() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let (run, trace) = (folder.path("run"), folder.path("trace.json"))
    let result = try Command.run(
      ["train", "--config", configuration, "--run", run, "--workers", "4", "--threads", "1", "--trace", trace]
        + ["--set", "parallelism.stages=2", "--set", "checkpoint.every=3"])
    #expect(result.code == 0, "\(result.text)")
    #expect(result.text.contains("trace written to"), "\(result.text)")
    let events = try events(trace)
    let names = events.filter { $0["name"] as? String == "process_name" }.compactMap {
      ($0["args"] as? [String: Any])?["name"] as? String
    }
    #expect(Set(names).isSuperset(of: ["coordinator"]) && names.count == 5, "\(names)")
    for place in ["replica 0, stage 0", "replica 0, stage 1", "replica 1, stage 0", "replica 1, stage 1"] {
      #expect(names.contains { $0.hasSuffix(place) }, "\(place) is not in \(names)")
    }
    let spans = spans(events)
    expectNoOverlap(spans)

    // Every microbatch of every step, once forward and once backward on each of the two stages.
    for activity in ["forward", "backward"] {
      let found = Dictionary(grouping: spans.filter { $0.name == activity }) { "\($0.step)/\($0.microbatch ?? -1)" }
      #expect(found.count == 6 * 8, "\(activity): \(found.keys.sorted())")
      for (microbatch, list) in found {
        #expect(list.count == 2 && Set(list.map(\.process)).count == 2, "\(activity) of \(microbatch)")
      }
    }
    let workers = Set(spans.filter { $0.process > 0 }.map(\.process))
    #expect(workers.count == 4)
    for worker in workers {
      let own = spans.filter { $0.process == worker }
      for name in [
        "send", "receive", "data wait", "reduce", "update", "barrier", "evaluate", "checkpoint snapshot",
        "checkpoint write",
      ] {
        #expect(own.contains { $0.name == name }, "worker \(worker) has no \(name)")
      }
      #expect(own.filter { $0.name == "update" }.map(\.step).sorted() == Array(0..<6))
      #expect(own.filter { $0.name == "checkpoint snapshot" }.map(\.step).sorted() == [3, 6])
    }
    let coordinator = spans.filter { $0.process == 0 }
    #expect(coordinator.filter { $0.name == "step" }.map(\.step).sorted() == Array(0..<6))
    // One clock: what workers computed in a step lies within it, and its update comes after its commit.
    for step in coordinator where step.name == "step" && step.step > 0 {
      for span in spans where span.process > 0 && span.step == step.step {
        switch span.name {
        case "forward":
          #expect(span.start > step.start - 20_000 && span.end < step.end + 20_000, "\(span) outside of \(step)")
        case "update": #expect(span.start > step.end - 20_000, "\(span) before the commit of \(step)")
        default: break
        }
      }
    }
  }

  /// The phases of a step are the step: next to nothing that the compute thread does is in none of them.
  @Test(.timeLimit(.minutes(3))) func spansCoverTheTimeOfTheComputeThread() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let (run, trace) = (folder.path("run"), folder.path("trace.json"))
    let result = try Command.run(
      ["train", "--config", configuration, "--run", run, "--workers", "2", "--threads", "1", "--trace", trace]
        + ["--set", "parallelism.stages=2", "--set", "validation.every=0", "--set", "run.steps=12"]
        + ["--set", "checkpoint.every=1000"])
    #expect(result.code == 0, "\(result.text)")
    let spans = spans(try events(trace)).filter { $0.process > 0 && $0.row < 3 && (2..<12).contains($0.step) }
    for (worker, list) in Dictionary(grouping: spans, by: \.process) {
      var covered = 0.0
      var end = 0.0
      let sorted = list.sorted { $0.start < $1.start }
      for span in sorted {
        covered += max(0, span.end - max(span.start, end))
        end = max(end, span.end)
      }
      let whole = end - (sorted.first?.start ?? 0)
      #expect(covered / whole > 0.9, "worker \(worker): \(covered) of \(whole) us are in spans")
    }
  }

  @Test(.timeLimit(.minutes(2))) func aKilledRunLeavesAReadableTrace() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let (run, trace) = (folder.path("run"), folder.path("trace.json"))
    let process = try Command.Running(
      ["train", "--config", configuration, "--run", run, "--workers", "1", "--trace", trace, "--set", "run.steps=5000"])
    let text = { (try? String(contentsOfFile: trace, encoding: .utf8)) ?? "" }
    let reached = process.waitUntil(seconds: 60) { text().contains(#""name":"update""#) }
    #expect(reached, "\(process.errorsSoFar)")
    kill(process.process.processIdentifier, SIGKILL)
    _ = process.wait(seconds: 20)
    // Viewers accept a missing bracket; a JSON parser needs it.
    let closed = Data((text() + "\n]").utf8)
    let events = try #require(try JSONSerialization.jsonObject(with: closed) as? [[String: Any]])
    #expect(spans(events).contains { $0.name == "forward" })
  }

  @Test(.timeLimit(.minutes(1))) func aTraceThatCannotBeWrittenIsSaidAtOnce() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let result = try Command.run(
      ["train", "--config", configuration, "--run", folder.path("run"), "--workers", "1"]
        + ["--trace", folder.path("missing/trace.json")])
    #expect(result.code == 74, "\(result.text)")
    #expect(result.text.contains("missing/trace.json"), "\(result.text)")
  }
}
