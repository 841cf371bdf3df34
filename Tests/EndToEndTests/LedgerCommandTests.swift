import Foundation
import Testing

/// `transfusion ledger` on a real run that changed its workers.
@Suite(.serialized) struct LedgerCommandTests {
  @Test(.timeLimit(.minutes(5))) func theLedgerProvesARunAndFindsWhatWasChanged() throws {
    let folder = try TemporaryFolder()
    let run = folder.path("run")
    try TinyRun.train(
      run, configuration: TinyRun.configuration(in: folder), workers: 2, set: ["run.stop_after=3"])
    try TinyRun.resume(run, workers: 1, set: ["run.stop_after=0"])

    let proof = try Command.run(["ledger", "verify", run, "--data"])
    #expect(
      proof.code == 0 && proof.output.contains("6 steps of 2 generations consumed 96 samples, each exactly once"),
      "\(proof.text)")
    let text = try Command.run(["ledger", "show", run]).output
    #expect(text.contains("generation 1") && text.contains("leaves 0 to 3: worker"), "\(text)")
    let lines = try Command.run(["ledger", "show", run, "--json", "--last", "2"]).output.split(separator: "\n")
    let steps = try lines.map { line in
      try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
    }
    #expect(steps.map { $0["step"] as? Int } == [4, 5] && steps[1]["nextSample"] as? Int == 96, "\(lines)")
    let some = try Command.run(["ledger", "show", run, "--json", "--from", "1", "--to", "2"]).output
    #expect(some.split(separator: "\n").count == 2, "\(some)")

    let database = "\(run)/journal.sqlite"
    try TinyRun.change(database, "UPDATE steps SET target_tokens = target_tokens - 1 WHERE step = 4")
    #expect(try Command.run(["ledger", "verify", run]).code == 0)
    let miscounted = try Command.run(["ledger", "verify", run, "--data"])
    #expect(miscounted.code == 1 && miscounted.output.contains("step 4: "), "\(miscounted.text)")
    try TinyRun.change(database, "DELETE FROM steps WHERE step = 2")
    let refuted = try Command.run(["ledger", "verify", run])
    #expect(refuted.code == 1 && refuted.output.contains("step 2 is missing"), "\(refuted.text)")
    #expect(refuted.errors.contains("1 fault"), "\(refuted.text)")
  }

  @Test func whatIsNoRunIsAnErrorWithItsClass() throws {
    let folder = try TemporaryFolder()
    for command in ["show", "verify"] {
      let result = try Command.run(["ledger", command, folder.path("none")])
      #expect(result.code == 66 && result.errors.contains("holds no run"), "\(result.text)")
    }
    try Data("no database, though it has the name of one".utf8).write(to: folder.url.appending(path: "journal.sqlite"))
    #expect(try Command.run(["ledger", "verify", folder.url.path]).code == 74)
    #expect(try Command.run(["ledger", "show", folder.url.path, "--last", "1", "--from", "2"]).code == 64)
  }
}
