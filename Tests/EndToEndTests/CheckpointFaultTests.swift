import Foundation
import Testing

/// Damage to checkpoints of a real run: named, refused, the one before used, the same final state.
@Suite(.serialized) struct CheckpointFaultTests {
  /// A finished run with checkpoints of steps 2, 4 and 6.
  private func finishedRun(_ folder: TemporaryFolder) throws -> (run: String, digest: String) {
    let run = folder.path("run")
    try TinyRun.train(run, configuration: TinyRun.configuration(in: folder), workers: 2)
    return (run, try TinyRun.digest(run))
  }
  private func checkpoint(_ run: String, _ step: Int) -> String {
    run + "/checkpoints/step-" + String(format: "%09d", step)
  }
  private func copy(_ run: String, to path: String) throws -> String {
    try FileManager.default.copyItem(atPath: run, toPath: path)
    return path
  }

  enum Damage: String, CaseIterable, Sendable {
    case flippedByte, flippedHeaderByte, truncated, emptied, missingFile, manifestDeleted, manifestFlipped
  }

  @Test(.timeLimit(.minutes(5))) func damageIsNamedAndThePreviousCheckpointIsUsed() throws {
    let folder = try TemporaryFolder()
    let (run, digest) = try finishedRun(folder)
    for damage in Damage.allCases {
      let damaged = try copy(run, to: folder.path(damage.rawValue))
      let newest = checkpoint(damaged, 6)
      let files = try FileManager.default.contentsOfDirectory(atPath: newest).sorted()
      let tensors = try #require(files.first { $0.hasSuffix(".h5") })
      let target = newest + "/" + (damage == .manifestDeleted || damage == .manifestFlipped ? "manifest.json" : tensors)
      var bytes = try Data(contentsOf: URL(filePath: target))
      switch damage {
      case .flippedByte: bytes[bytes.count * 2 / 3] ^= 0x10
      case .flippedHeaderByte: bytes[5] ^= 0x01
      case .truncated: bytes = bytes.prefix(bytes.count / 2)
      case .emptied: bytes = Data()
      case .manifestFlipped: bytes[bytes.count / 2] ^= 0x01
      case .missingFile, .manifestDeleted: break
      }
      if damage == .missingFile || damage == .manifestDeleted {
        try FileManager.default.removeItem(atPath: target)
      } else {
        try bytes.write(to: URL(filePath: target))
      }
      if damage != .manifestDeleted {
        let verify = try Command.run(["checkpoint", "verify", damaged, "--step", "6"])
        #expect(verify.code == 66, "\(damage): \(verify.text)")
        let named = damage == .manifestFlipped ? "manifest.json" : tensors
        #expect(verify.text.contains(named), "\(damage) is not named: \(verify.text)")
      }
      let resumed = try TinyRun.resume(damaged, workers: 1)
      #expect(resumed.text.contains("starting from step 4"), "\(damage): \(resumed.text)")
      let culprit = damage == .manifestDeleted || damage == .manifestFlipped ? "manifest.json" : tensors
      #expect(resumed.text.contains(culprit), "\(damage) is not named on resume: \(resumed.text)")
      #expect(try TinyRun.digest(damaged) == digest, "\(damage)")
    }
  }

  @Test(.timeLimit(.minutes(2))) func withoutAnyUsableCheckpointTheErrorSaysSo() throws {
    let folder = try TemporaryFolder()
    let (run, _) = try finishedRun(folder)
    for step in [2, 4, 6] {
      let file = checkpoint(run, step) + "/manifest.json"
      if FileManager.default.fileExists(atPath: file) { try Data("{".utf8).write(to: URL(filePath: file)) }
    }
    let result = try TinyRun.resume(run, workers: 1, expecting: 66)
    #expect(result.errors.contains("error:"))
  }

  /// A run directory on a file system of a few megabytes fills up while a checkpoint is written.
  @Test(.timeLimit(.minutes(3))) func aFullDiskLosesNothingThatWasCommitted() throws {
    let folder = try TemporaryFolder()
    let mount = folder.path("small")
    try FileManager.default.createDirectory(atPath: mount, withIntermediateDirectories: true)
    guard try shell("mount -t tmpfs -o size=12m tmpfs '\(mount)'") == 0 else {
      // Not root, or a container without CAP_SYS_ADMIN: the in-process test of Checkpoints covers ENOSPC.
      print("SKIPPED aFullDiskLosesNothingThatWasCommitted: mounting a tmpfs is not permitted here")
      return
    }
    defer { _ = try? shell("umount '\(mount)'") }
    let configuration = try TinyRun.configuration(in: folder)
    let run = mount + "/run"
    try TinyRun.train(run, configuration: configuration, workers: 1, set: ["run.stop_after=2"])
    let digest = try TinyRun.digest(run, step: 2)
    // Leave less than a checkpoint needs, but room for the journal.
    let free = try freeBytes(mount)
    let size = try shell("head -c \(max(0, free - 900_000)) /dev/zero > '\(mount)/ballast'")
    #expect(size == 0)
    let full = try Command.run(["resume", run, "--workers", "1", "--set", "run.stop_after=4"])
    #expect(full.code == 74, "\(full.text)")
    #expect(full.text.contains("no space left on the disk"), "\(full.text)")
    #expect(try TinyRun.digest(run, step: 2) == digest)
    try FileManager.default.removeItem(atPath: mount + "/ballast")
    try TinyRun.resume(run, workers: 1, set: ["run.stop_after=0"])
    let whole = folder.path("whole")
    try TinyRun.train(whole, configuration: configuration, workers: 1)
    #expect(try TinyRun.digest(run) == TinyRun.digest(whole))
  }

  private func shell(_ command: String) throws -> Int32 {
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    process.arguments = ["-c", command]
    process.standardError = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    return process.terminationStatus
  }
  private func freeBytes(_ path: String) throws -> Int {
    let attributes = try FileManager.default.attributesOfFileSystem(forPath: path)
    return (attributes[.systemFreeSize] as? NSNumber)?.intValue ?? 0
  }

  /// Other people's tools read what we write, and read the same numbers.
  @Test(.timeLimit(.minutes(2))) func h5dumpAndH5pyReadACheckpoint() throws {
    let folder = try TemporaryFolder()
    let (run, _) = try finishedRun(folder)
    let newest = checkpoint(run, 6)
    let files = try FileManager.default.contentsOfDirectory(atPath: newest).filter { $0.hasSuffix(".h5") }
    for file in files { #expect(try shell("h5dump -H '\(newest)/\(file)' > /dev/null") == 0, "h5dump \(file)") }

    let name = "/parameters/model.layers.1.mlp.down_proj.weight"
    let exported = folder.path("tensor.npy")
    let export = try Command.run(["checkpoint", "export", run, name, exported])
    #expect(export.code == 0, "\(export.text)")
    let python = ProcessInfo.processInfo.environment["TRANSFUSION_PYTHON"] ?? "/usr/bin/python3"
    let script = """
      import glob, sys, h5py, numpy
      found = [h5py.File(f)[sys.argv[2]][...] for f in sorted(glob.glob(sys.argv[1] + '/*.h5')) if sys.argv[2] in h5py.File(f)]
      assert len(found) == 1, 'in %d files' % len(found)
      ours = numpy.load(sys.argv[3])
      assert found[0].shape == ours.shape == (64, 160), found[0].shape
      assert found[0].dtype == ours.dtype == numpy.dtype('<f4')
      assert (found[0].view('u4') == ours.view('u4')).all()
      assert abs(ours).max() > 0
      """
    let scriptFile = folder.path("check.py")
    try script.write(toFile: scriptFile, atomically: true, encoding: .utf8)
    #expect(try shell("'\(python)' -c 'import h5py, numpy'") == 0, "\(python) has no h5py: run ops/install")
    #expect(try shell("'\(python)' '\(scriptFile)' '\(newest)' '\(name)' '\(exported)' 2>&1") == 0)
  }
}
