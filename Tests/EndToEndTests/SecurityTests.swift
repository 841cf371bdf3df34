import Foundation
import Testing

/// Real processes with keys: the same bits as without, and nobody in who is not on the list.
@Suite(.serialized) struct SecurityTests {
  /// Keys in files, and no key of the user who runs the tests.
  private struct Keys {
    let folder: TemporaryFolder
    var environment: [String: String] { ["XDG_CONFIG_HOME": folder.path("home")] }

    func run(_ arguments: [String], seconds: Double = 120) throws -> Command.Result {
      try Command.run(arguments, seconds: seconds, environment: environment)
    }
    func start(_ arguments: [String]) throws -> Command.Running {
      try Command.Running(arguments, environment: environment)
    }
    @discardableResult func generate(_ name: String) throws -> String {
      let result = try run(["keys", "generate", "--output", folder.path(name), "--name", name])
      #expect(result.code == 0, "\(result.text)")
      return folder.path(name)
    }
    func authorize(_ run: String, _ name: String, role: String = "worker") throws {
      let result = try self.run(["keys", "authorize", run, folder.path(name + ".pub"), "--role", role])
      #expect(result.code == 0, "\(result.text)")
    }
    /// Starts a coordinator with its own key and waits for its address.
    func coordinator(_ run: String, configuration: String, workers: Int, set: [String] = []) throws
      -> (process: Command.Running, address: String)
    {
      let process = try start(
        [
          "coordinator", "start", "--config", configuration, "--run", run, "--listen", "tcp://127.0.0.1:*", "--key",
          folder.path("coordinator"), "--exit-with-parent", "--set", "parallelism.workers=\(workers)",
        ] + set.flatMap { ["--set", $0] })
      let file = URL(filePath: run + "/coordinator.json")
      #expect(process.waitUntil(seconds: 30) { FileManager.default.fileExists(atPath: file.path) })
      let json = try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as? [String: Any]
      return (process, try #require(json?["address"] as? String, "\(process.errorsSoFar)"))
    }
    func join(_ address: String, _ name: String, extra: [String] = []) -> [String] {
      [
        "worker", "join", address, "--threads", "1", "--key", folder.path(name), "--coordinator-key",
        folder.path("coordinator.pub"), "--exit-with-parent",
      ] + extra
    }
  }

  @Test(.timeLimit(.minutes(3))) func anEncryptedRunEndsInTheSameState() throws {
    let folder = try TemporaryFolder()
    let keys = Keys(folder: folder)
    let configuration = try TinyRun.configuration(in: folder)
    try TinyRun.train(folder.path("plain"), configuration: configuration, workers: 1)
    let expected = try TinyRun.digest(folder.path("plain"))
    for name in ["coordinator", "ann", "bob"] { try keys.generate(name) }

    // Local workers use their coordinator's key, which needs no authorising.
    let local = folder.path("local")
    let trained = try keys.run([
      "train", "--config", configuration, "--run", local, "--workers", "2", "--threads", "1", "--key",
      folder.path("coordinator"), "--set", "parallelism.stages=2",
    ])
    #expect(trained.code == 0 && trained.errors.contains("encrypted"), "\(trained.text)")
    #expect(try TinyRun.digest(local) == expected)

    // Workers with keys of their own.
    let run = folder.path("run")
    for name in ["ann", "bob"] { try keys.authorize(run, name) }
    let (coordinator, address) = try keys.coordinator(
      run, configuration: configuration, workers: 2, set: ["parallelism.stages=2"])
    let workers = try ["ann", "bob"].map { try keys.start(keys.join(address, $0)) }
    for worker in workers {
      let result = worker.wait(seconds: 90)
      #expect(result.code == 0, "\(result.text)")
    }
    let result = coordinator.wait(seconds: 30)
    #expect(result.code == 0, "\(result.text)")
    #expect(try TinyRun.digest(run) == expected)
    for name in ["coordinator", "ann", "bob"] {
      let file = try String(contentsOfFile: folder.path(name), encoding: .utf8)
      let secret = try #require(file.split(separator: "\n").first { $0.hasPrefix("secret ") }).dropFirst(7)
      #expect(!result.text.contains(secret))
    }
  }

  @Test(.timeLimit(.minutes(3))) func whoIsNotOnTheListStaysOutAndIsTold() throws {
    let folder = try TemporaryFolder()
    let keys = Keys(folder: folder)
    let configuration = try TinyRun.configuration(in: folder)
    for name in ["coordinator", "ann", "eve", "watcher", "other"] { try keys.generate(name) }
    let run = folder.path("run")
    try keys.authorize(run, "ann")
    let (coordinator, address) = try keys.coordinator(
      run, configuration: configuration, workers: 2, set: ["run.steps=100000", "validation.every=0"])

    // The second place stays empty, so the run waits. Eve is not on the list.
    let ann = try keys.start(keys.join(address, "ann"))
    let eve = try keys.run(keys.join(address, "eve"), seconds: 30)
    #expect(eve.code == 77, "\(eve.text)")
    #expect(eve.errors.contains("keys authorize") && eve.errors.contains(address), "\(eve.errors)")
    // Nor is whoever brings no key, or expects another coordinator.
    let plain = try keys.run(["worker", "join", address, "--threads", "1"], seconds: 30)
    #expect(plain.code == 78 && plain.errors.contains("--coordinator-key"), "\(plain.text)")
    let misled = try keys.run(
      ["worker", "join", address, "--join-timeout", "3", "--key", folder.path("ann"), "--coordinator-key"]
        + [folder.path("other.pub")], seconds: 30)
    #expect([69, 76].contains(misled.code) && misled.errors.contains("--coordinator-key"), "\(misled.text)")

    // Status needs a key, too; an observer's does.
    let refused = try keys.run(["status", run, "--key", folder.path("watcher")])
    #expect(refused.code == 77, "\(refused.text)")
    try keys.authorize(run, "watcher", role: "observer")
    var status = try keys.run(["status", run, "--key", folder.path("watcher"), "--json"])
    for _ in 0..<20 where status.code == 77 {
      usleep(200_000)
      status = try keys.run(["status", run, "--key", folder.path("watcher"), "--json"])
    }
    #expect(status.code == 0 && status.output.contains("\"live\""), "\(status.text)")
    let asWorker = try keys.run(keys.join(address, "watcher", extra: ["--join-timeout", "3"]), seconds: 30)
    #expect(asWorker.code == 69, "\(asWorker.text)")

    // Ann works until she is struck off.
    #expect(ann.process.isRunning, "\(ann.errorsSoFar)")
    let began = Date()
    let revoked = try keys.run(["keys", "revoke", run, "ann"])
    #expect(revoked.code == 0, "\(revoked.text)")
    let ended = ann.wait(seconds: 30)
    #expect(ended.code == 77, "\(ended.text)")
    #expect(Date().timeIntervalSince(began) < 10)
    let list = try keys.run(["keys", "list", run])
    #expect(list.output.contains("watcher") && !list.output.contains("ann "), "\(list.text)")
    coordinator.process.terminate()
    let result = coordinator.wait(seconds: 60)
    #expect(result.errors.contains("not authorised"), "\(result.text)")
  }

  @Test("a host's workers behind one connection share its key, and are let in or not together", .timeLimit(.minutes(3)))
  func workersOfAHostShareAKey() throws {
    let folder = try TemporaryFolder()
    let keys = Keys(folder: folder)
    let configuration = try TinyRun.configuration(in: folder)
    try TinyRun.train(folder.path("plain"), configuration: configuration, workers: 1)
    for name in ["coordinator", "ann", "eve"] { try keys.generate(name) }
    let run = folder.path("run")
    try keys.authorize(run, "ann")
    let (coordinator, address) = try keys.coordinator(
      run, configuration: configuration, workers: 2, set: ["parallelism.stages=2"])
    let eve = try keys.run(keys.join(address, "eve", extra: ["--workers", "2"]), seconds: 30)
    #expect(eve.code == 77 && eve.errors.contains("keys authorize"), "\(eve.text)")
    let ann = try keys.run(keys.join(address, "ann", extra: ["--workers", "2"]), seconds: 90)
    #expect(ann.code == 0, "\(ann.text)")
    let result = coordinator.wait(seconds: 30)
    #expect(result.code == 0, "\(result.text)")
    #expect(try TinyRun.digest(run) == TinyRun.digest(folder.path("plain")))
  }

  /// The run goes on without whoever was struck off, and ends in the same bits.
  @Test(.timeLimit(.minutes(3))) func aRunGoesOnWithoutARevokedWorker() throws {
    let folder = try TemporaryFolder()
    let keys = Keys(folder: folder)
    let configuration = try TinyRun.configuration(in: folder)
    let set = ["run.steps=80", "validation.every=0", "checkpoint.every=1000"]
    try TinyRun.train(folder.path("plain"), configuration: configuration, workers: 1, set: set)
    for name in ["coordinator", "ann", "bob"] { try keys.generate(name) }
    let run = folder.path("run")
    for name in ["ann", "bob"] { try keys.authorize(run, name) }
    let (coordinator, address) = try keys.coordinator(run, configuration: configuration, workers: 2, set: set)
    let ann = try keys.start(keys.join(address, "ann"))
    let bob = try keys.start(keys.join(address, "bob"))
    #expect(coordinator.waitUntil(seconds: 60) { TinyRun.committedSteps(run) >= 5 }, "\(coordinator.errorsSoFar)")
    #expect(try keys.run(["keys", "revoke", run, "ann"]).code == 0)
    #expect(TinyRun.committedSteps(run) < 75, "the run was over before the key was revoked")
    let (first, second, last) = (ann.wait(seconds: 60), bob.wait(seconds: 90), coordinator.wait(seconds: 30))
    #expect(first.code == 77, "\(first.text)")
    #expect(second.code == 0, "\(second.text)")
    #expect(last.code == 0 && last.errors.contains("revoked"), "\(last.text)")
    #expect(try TinyRun.digest(run) == TinyRun.digest(folder.path("plain")))
  }

  @Test func badKeyFilesAreRefusedWithAReason() throws {
    let folder = try TemporaryFolder()
    let keys = Keys(folder: folder)
    let configuration = try TinyRun.configuration(in: folder)
    let path = try keys.generate("key")
    let again = try keys.run(["keys", "generate", "--output", path])
    #expect(again.code == 64 && again.errors.contains(path), "\(again.text)")
    let start = ["coordinator", "start", "--config", configuration, "--run", folder.path("run"), "--key", path]
    chmod(path, 0o644)
    let open = try keys.run(start)
    #expect(open.code == 78 && open.errors.contains("chmod 0600"), "\(open.text)")
    chmod(path, 0o600)
    try Data("public x\nsecret y\n".utf8).write(to: URL(filePath: path))
    let garbage = try keys.run(start)
    #expect(garbage.code == 78 && garbage.errors.contains(path), "\(garbage.text)")
    #expect(!FileManager.default.fileExists(atPath: folder.path("run/journal.sqlite")))
    let both = try keys.run(start + ["--insecure-plaintext"])
    #expect(both.code == 64, "\(both.text)")

    // Outside loopback there is no way around a key but the one that says so.
    let outside = ["coordinator", "start", "--config", configuration, "--run", folder.path("run")]
    let refused = try keys.run(outside + ["--listen", "tcp://0.0.0.0:*"])
    #expect(refused.code == 69 && refused.errors.contains("keys generate"), "\(refused.text)")
    // The user's own key is found by itself.
    #expect(try keys.run(["keys", "generate"]).code == 0)
    let process = try keys.start(outside + ["--listen", "tcp://0.0.0.0:*"])
    #expect(process.waitUntil(seconds: 30) { process.errorsSoFar.contains("encrypted") }, "\(process.errorsSoFar)")
    process.process.terminate()
    _ = process.wait(seconds: 30)

    let unknown = try keys.run(["keys", "revoke", folder.path("run"), "nobody"])
    #expect(unknown.code == 64 && unknown.errors.contains("nobody"), "\(unknown.text)")
    let noKey = try keys.run(["keys", "authorize", folder.path("run"), "garbage"])
    #expect(noKey.code == 64, "\(noKey.text)")
    let list = folder.path("run/authorized-keys")
    try Data("garbage\n".utf8).write(to: URL(filePath: list))
    let bad = try keys.run(["keys", "list", folder.path("run")])
    #expect(bad.code == 78 && bad.errors.contains("authorized-keys:1"), "\(bad.text)")
  }
}
