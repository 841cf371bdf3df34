import Foundation
import Testing

/// Bad input: a clear error, the documented exit code, nothing lost, nobody else disturbed.
@Suite(.serialized) struct BadInputTests {
  private func expectFailure(
    _ result: Command.Result, code: Int32, mentions words: [String], sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(result.code == code, "\(result.text)", sourceLocation: sourceLocation)
    for word in words {
      #expect(result.errors.contains(word), "'\(word)' is not in: \(result.errors)", sourceLocation: sourceLocation)
    }
    // One line that begins with "error:", and no trace of a crash.
    #expect(result.errors.contains("rror:"), sourceLocation: sourceLocation)
    #expect(
      !result.errors.contains("Fatal error") && !result.errors.contains("Thread 0"), sourceLocation: sourceLocation)
  }

  @Test func configurationErrorsNameFileLineAndRemedy() throws {
    let folder = try TemporaryFolder()
    let good = try String(contentsOfFile: TinyRun.configuration(in: folder), encoding: .utf8)
    func attempt(_ text: String, set: [String] = []) throws -> Command.Result {
      let file = folder.path("bad.yaml")
      try text.write(toFile: file, atomically: true, encoding: .utf8)
      return try Command.run(
        ["train", "--config", file, "--run", folder.path("never"), "--workers", "1"] + set.flatMap { ["--set", $0] })
    }
    expectFailure(
      try attempt(good.replacing("width: 64", with: "wdith: 64")), code: 78,
      mentions: ["bad.yaml:6", "model.wdith", "model.width"])
    expectFailure(try attempt(good, set: ["parallelism.workers=0"]), code: 78, mentions: ["parallelism.workers"])
    expectFailure(try attempt(good, set: ["data.sequence_length=32"]), code: 65, mentions: ["32", "data index"])
    expectFailure(try attempt(good, set: ["model.vocabulary=500"]), code: 65, mentions: ["500", "600"])
    expectFailure(try attempt(good, set: ["data.directory=/nonexistent"]), code: 65, mentions: ["/nonexistent"])
    #expect(!FileManager.default.fileExists(atPath: folder.path("never")), "a refused run left a directory behind")
    let missing = try Command.run([
      "train", "--config", "/nonexistent.yaml", "--run", folder.path("never"), "--workers", "1",
    ])
    expectFailure(missing, code: 78, mentions: ["/nonexistent.yaml", "no such file"])
  }

  @Test func zeroWorkersAreRefused() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    for command in [
      ["train", "--config", configuration, "--run", folder.path("run"), "--workers", "0"],
      ["plan", "--config", configuration, "--workers", "0"],
      ["worker", "join", "tcp://127.0.0.1:1", "--threads", "0"],
    ] {
      let result = try Command.run(command)
      #expect(result.code == 64, "\(result.text)")
      #expect(result.errors.contains("Error:") || result.errors.contains("error:"))
    }
  }

  @Test func aPortInUseIsNamed() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let holder = try Listener()
    defer { holder.stop() }
    let address = "tcp://127.0.0.1:\(holder.port)"
    let result = try Command.run(
      ["coordinator", "start", "--config", configuration, "--run", folder.path("run"), "--listen", address])
    expectFailure(result, code: 69, mentions: [address])
  }

  @Test func anAddressWhereNobodyAnswersIsNamed() throws {
    let result = try Command.run(["worker", "join", "tcp://127.0.0.1:9", "--join-timeout", "2"])
    expectFailure(result, code: 69, mentions: ["tcp://127.0.0.1:9"])
    let status = try Command.run(["status", "/nonexistent-run"])
    #expect(status.code != 0)
    #expect(status.errors.contains("/nonexistent-run"))
  }

  @Test(.timeLimit(.minutes(3))) func aResumeWithOtherDataOrAnotherModelIsRefused() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let run = folder.path("run")
    try TinyRun.train(run, configuration: configuration, workers: 1, set: ["run.stop_after=2"])
    let digest = try TinyRun.digest(run)

    expectFailure(
      try TinyRun.resume(run, workers: 1, set: ["model.diffusion_weight=4"], expecting: 78), code: 78,
      mentions: ["model.diffusion_weight"])

    // The same preparation with one source less is other data.
    let sources = try TinyRun.data.get()
    let other = folder.path("other")
    let prepared = try Command.run([
      "data", "prepare", "--out", other, "--images", sources.path("sources/emoji-validation.tar"), "--text",
      sources.path("sources/wordnet-validation.jsonl"), "--validation-images",
      sources.path("sources/emoji-train.tar"), "--validation-text", sources.path("sources/wordnet-train.jsonl"),
      "--tokenizer",
      try TinyRun.documents() + "/tokenizer.model", "--image-size", "16", "--sequence-length", "64", "--patch", "4",
    ])
    #expect(prepared.code == 0, "\(prepared.text)")
    expectFailure(
      try TinyRun.resume(run, workers: 1, set: ["data.directory=\(other)"], expecting: 65), code: 65,
      mentions: ["fingerprint"])
    #expect(try TinyRun.digest(run) == digest)
    expectFailure(try TinyRun.resume(run, workers: 1, from: 5, expecting: 66), code: 66, mentions: ["5"])
    try TinyRun.resume(run, workers: 1, set: ["run.stop_after=0"])
  }

  /// While a run trains: a second coordinator on its directory, garbage to every socket, status within 100 ms.
  @Test(.timeLimit(.minutes(3))) func aLiveRunIsNotDisturbed() throws {
    let folder = try TemporaryFolder()
    let configuration = try TinyRun.configuration(in: folder)
    let set = ["run.steps=160", "validation.every=0", "checkpoint.every=80"]
    let quiet = folder.path("quiet")
    try TinyRun.train(quiet, configuration: configuration, workers: 2, set: set + ["parallelism.stages=2"])

    let run = folder.path("run")
    let arguments = ["train", "--config", configuration, "--run", run, "--workers", "2"]
    let process = try Command.Running(
      arguments + (set + ["parallelism.stages=2"]).flatMap { ["--set", $0] })
    let file = run + "/coordinator.json"
    #expect(process.waitUntil(seconds: 30) { FileManager.default.fileExists(atPath: file) })
    let started = process.waitUntil(seconds: 30) {
      TinyRun.committedSteps(run) >= 2
    }
    #expect(started, "\(process.errorsSoFar)")

    let second = try Command.run(arguments)
    expectFailure(second, code: 73, mentions: [run])

    for port in try listeningPorts(ofChildrenOf: process.process.processIdentifier) {
      for payload in Garbage.payloads { Garbage.send(payload, port: port) }
    }

    #expect(process.process.isRunning && TinyRun.committedSteps(run) < 160, "the run was over before the garbage came")

    // Answers within 100 ms while training, beside what starting a process takes on a machine that others use as well.
    func seconds(_ arguments: [String]) throws -> [Double] {
      try (0..<7).map { _ in
        let start = Date()
        _ = try Command.run(arguments)
        return Date().timeIntervalSince(start)
      }.sorted()
    }
    let (times, starts) = (try seconds(["status", run, "--json"]), try seconds(["--help"]))
    #expect(times[3] - starts[3] < 0.1, "status took \(times), a process as such \(starts)")
    let status = try Command.run(["status", run, "--json"])
    #expect(status.code == 0, "\(status.text)")
    let json = try JSONSerialization.jsonObject(with: Data(status.output.utf8)) as? [String: Any]
    #expect(json?["step"] is Int)
    #expect((json?["workers"] as? [Any])?.count == 2)

    let result = process.wait(seconds: 90)
    #expect(result.code == 0, "\(result.text)")
    #expect(try TinyRun.digest(run) == TinyRun.digest(quiet))
  }

  /// TCP ports on which the process and its children listen, from /proc.
  private func listeningPorts(ofChildrenOf parent: Int32) throws -> [UInt16] {
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    // Inodes of the family's sockets, then the listening rows (state 0A) of /proc/net/tcp with such an inode.
    process.arguments = [
      "-c",
      """
      family="\(parent) $(cat /proc/\(parent)/task/*/children 2>/dev/null)"
      for p in $family; do ls -l /proc/$p/fd 2>/dev/null | sed -n 's/.*socket:\\[\\([0-9]*\\)\\].*/\\1/p'; done | sort -u > /tmp/transfusion-inodes.$$
      awk 'NR==FNR {want[$1]=1; next} $4=="0A" && ($10 in want) {split($2, a, ":"); print a[2]}' /tmp/transfusion-inodes.$$ /proc/net/tcp
      rm -f /tmp/transfusion-inodes.$$
      """,
    ]
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let text = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    process.waitUntilExit()
    let ports = text.split(separator: "\n").compactMap { UInt16($0, radix: 16) }
    #expect(ports.count >= 3, "expected the coordinator's port and two data ports, found \(ports)")
    return ports
  }
}
