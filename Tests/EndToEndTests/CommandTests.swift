import Foundation
import Testing

/// What a user sees: help, plan, status of a finished run, the model check, losses that fall.
@Suite(.serialized) struct CommandTests {
  @Test func everyCommandHasHelp() throws {
    for command in [
      [], ["coordinator"], ["coordinator", "start"], ["worker", "join"], ["train"], ["resume"], ["status"], ["plan"],
      ["keys"], ["keys", "generate"], ["keys", "authorize"], ["keys", "revoke"], ["keys", "list"],
      ["checkpoint"], ["checkpoint", "list"], ["checkpoint", "show"], ["checkpoint", "verify"],
      ["checkpoint", "digest"], ["ledger"], ["ledger", "show"], ["ledger", "verify"], ["data", "prepare"],
      ["data", "show"], ["verify", "model"], ["bench"],
      ["bench", "compute"], ["bench", "allreduce"], ["bench", "pipeline"], ["bench", "checkpoint"], ["bench", "data"],
    ] {
      let result = try Command.run(command + ["--help"])
      #expect(result.code == 0 && result.output.contains("USAGE"), "\(command)")
    }
  }

  @Test func planPrintsStagesAndScheduleWithoutStartingAnything() throws {
    let folder = try TemporaryFolder()
    let result = try Command.run([
      "plan", "--config", TinyRun.configuration(in: folder), "--workers", "4", "--set", "parallelism.stages=2",
    ])
    #expect(result.code == 0, "\(result.text)")
    for word in ["stage 0", "stage 1", "Bubble", "F0"] {
      #expect(result.output.contains(word), "'\(word)' is not in: \(result.output)")
    }
  }

  @Test(arguments: ["single", "grouped", "plain"]) func verifyModelPasses(_ name: String) throws {
    let fixtures = Command.root.appending(path: "Tests/TransfusionModelTests/Fixtures")
    let result = try Command.run(["verify", "model", fixtures.appending(path: name + ".h5").path])
    #expect(result.code == 0, "\(result.text)")
    for group in ["hidden", "logits", "epsilon", "loss", "grad"] {
      #expect(result.output.lowercased().contains(group), "'\(group)' is not in: \(result.output)")
    }
  }

  @Test func verifyModelRefusesAFileThatIsNone() throws {
    let folder = try TemporaryFolder()
    try Data("not HDF5".utf8).write(to: URL(filePath: folder.path("x.h5")))
    let result = try Command.run(["verify", "model", folder.path("x.h5")])
    #expect(result.code == 65, "\(result.text)")
    #expect(result.errors.contains("x.h5"))
  }

  /// Both validation losses fall well below their start on real data.
  @Test(.timeLimit(.minutes(5))) func trainingWorks() throws {
    let folder = try TemporaryFolder()
    let run = folder.path("run")
    try TinyRun.train(
      run, configuration: TinyRun.configuration(in: folder), workers: 2,
      set: [
        "run.steps=150", "training.precision=bfloat16", "checkpoint.every=1000", "validation.every=50",
        "optimizer.peak_learning_rate=3e-3", "optimizer.warmup_steps=10",
      ])
    let rows = try TinyRun.journal(
      run, "SELECT step, language_model_loss, diffusion_loss FROM validations ORDER BY step")
    let losses = rows.map { $0.split(separator: "|").compactMap { Double($0) } }
    let first = try #require(losses.first)
    let last = try #require(losses.last)
    #expect(first[0] == 0 && last[0] == 150, "\(rows)")
    #expect(last[1] < first[1] - 1.0, "language-model loss: \(rows)")
    #expect(last[2] < first[2] * 0.7, "diffusion loss: \(rows)")

    let status = try Command.run(["status", run])
    #expect(status.code == 0 && status.output.contains("150"), "\(status.text)")
    let json = try Command.run(["status", run, "--json"])
    let object = try JSONSerialization.jsonObject(with: Data(json.output.utf8)) as? [String: Any]
    #expect(object?["step"] as? Int == 150)
    #expect(object?["state"] as? String == "done")
  }
}
