import ArgumentParser
import Checkpoints
import ClusterModel
import Foundation

/// `transfusion checkpoint`: looks at the checkpoints of a run without changing them.
struct CheckpointCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "checkpoint",
    abstract: "Lists, shows, verifies and exports checkpoints.",
    subcommands: [
      CheckpointListCommand.self, CheckpointShowCommand.self, CheckpointVerifyCommand.self,
      CheckpointDigestCommand.self, CheckpointExportCommand.self,
    ])
}

/// Which checkpoint a command is about.
struct CheckpointSelection: ParsableArguments {
  @Argument(help: "The run directory, or its checkpoints folder.", completion: .directory)
  var directory: String
  @Option(help: "The step; the newest committed one unless given.")
  var step: UInt64?

  func store() -> CheckpointStore { Self.store(directory) }
  func selectedStep(_ store: CheckpointStore) throws(CheckpointError) -> Step {
    if let step { step } else { try store.newestCommitted() }
  }

  static func store(_ directory: String) -> CheckpointStore {
    var isDirectory: ObjCBool = false
    let nested = directory + "/checkpoints"
    let exists = FileManager.default.fileExists(atPath: nested, isDirectory: &isDirectory)
    return CheckpointStore(directory: exists && isDirectory.boolValue ? nested : directory)
  }
}

struct CheckpointListCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Lists the checkpoints of a run with a quick check of manifests and sizes.")
  @Argument(help: "The run directory, or its checkpoints folder.", completion: .directory)
  var directory: String

  func run() throws {
    let store = CheckpointSelection.store(directory)
    let entries = try store.list()
    guard !entries.isEmpty else { throw CheckpointError.noCheckpoint(directory: store.directory) }
    let now = Int(Date().timeIntervalSince1970)
    var table = TextTable(["step", "files", "size", "age", "state"], right: [0, 1, 2, 3])
    for entry in entries {
      let state =
        switch entry.state {
        case .committed: "valid (sizes)"
        case .uncommitted: "uncommitted"
        case .damaged(let error): "damaged: \(error)"
        }
      table.add([
        String(entry.step), String(entry.fileCount), ProgressLine.bytes(Double(entry.sizeBytes)),
        ProgressLine.duration(Double(now - entry.modifiedSeconds)), state,
      ])
    }
    print(table.text)
  }
}

struct CheckpointShowCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show", abstract: "Prints what a checkpoint's manifest records, and its tensors.")
  @OptionGroup var selection: CheckpointSelection
  @Flag(help: "Print the configuration of the run that wrote it, and nothing else.")
  var configuration = false

  func run() throws {
    let store = selection.store()
    let manifest = try store.manifest(of: try selection.selectedStep(store))
    if configuration {
      print(manifest.configuration, terminator: manifest.configuration.hasSuffix("\n") ? "" : "\n")
      return
    }
    var summary = TextTable([], right: [])
    summary.add(["step", String(manifest.step)])
    summary.add(["run", manifest.run])
    summary.add(["generation", String(manifest.generation)])
    summary.add(["digest", manifest.digest])
    summary.add(["next sample", String(manifest.data.nextSample)])
    summary.add(["data", manifest.data.fingerprint])
    summary.add(["device", manifest.device])
    summary.add(["precision", manifest.precision])
    summary.add(["folder", store.directory(of: manifest.step)])
    print(summary.text + "\n")
    var files = TextTable(["file", "size", "sha256"], right: [1])
    for name in manifest.fileNames {
      guard let file = manifest.files[name] else { continue }
      files.add([name, ProgressLine.bytes(Double(file.sizeBytes)), file.sha256])
    }
    print(files.text + "\n")
    var tensors = TextTable(["tensor", "shape", "file", "sha256"], right: [])
    for path in manifest.tensorPaths {
      guard let tensor = manifest.tensors[path] else { continue }
      tensors.add([
        path, tensor.shape.map { String($0) }.joined(separator: " x "), tensor.file, String(tensor.sha256.prefix(16)),
      ])
    }
    print(tensors.text)
  }
}

struct CheckpointVerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Reads every byte of a checkpoint and checks it against what was committed.")
  @OptionGroup var selection: CheckpointSelection
  @Flag(help: "Verify every step that has a folder; go on after a damaged one.")
  var all = false

  func validate() throws {
    if all && selection.step != nil { throw ValidationError("--all and --step exclude each other") }
  }

  func run() throws {
    let store = selection.store()
    let steps = all ? try store.list().map(\.step) : [try selection.selectedStep(store)]
    guard !steps.isEmpty else { throw CheckpointError.noCheckpoint(directory: store.directory) }
    var damaged: [CheckpointError] = []
    for step in steps {
      do throws(CheckpointError) {
        let verified = try Self.verify(store, step)
        print(
          "step \(step): valid, \(verified.manifest.tensors.count) tensors in \(verified.manifest.files.count) files, "
            + "\(ProgressLine.bytes(Double(verified.manifest.sizeBytes))), digest \(verified.digest)")
      } catch {
        guard all, case .damaged = error else { throw error }
        print("\(error)")
        damaged.append(error)
      }
    }
    if damaged.count == 1 { throw damaged[0] }
    if !damaged.isEmpty { throw CheckpointError.noneUsable(directory: store.directory, rejected: damaged) }
  }

  static func verify(_ store: CheckpointStore, _ step: Step) throws(CheckpointError) -> CheckpointStore.Verified {
    let progress = ProgressLine("verify step \(step)")
    defer { progress.finish() }
    return try store.verify(step: step) { progress.update(done: $0.doneBytes, of: $0.totalBytes, note: $0.file) }
  }
}

struct CheckpointDigestCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "digest",
    abstract: "Prints one hexadecimal line that depends on parameters, optimizer state and step alone.",
    discussion: "It is computed from the files, which are verified on the way.")
  @OptionGroup var selection: CheckpointSelection

  func run() throws {
    let store = selection.store()
    print(try CheckpointVerifyCommand.verify(store, try selection.selectedStep(store)).digest)
  }
}

struct CheckpointExportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "export", abstract: "Writes one tensor to a file of its own.",
    discussion: "A name ending in .npy makes a NumPy file, any other the little-endian float32 bytes alone.")
  @OptionGroup var selection: CheckpointSelection
  @Argument(help: "The tensor's path; a name without a slash in front is a parameter's.")
  var tensor: String
  @Argument(help: "The file to write.", completion: .file())
  var output: String

  func run() throws {
    let store = selection.store()
    let manifest = try store.manifest(of: try selection.selectedStep(store))
    try CheckpointReader(store: store, manifest: manifest).export(
      tensor.hasPrefix("/") ? tensor : "/parameters/" + tensor, to: output,
      format: output.hasSuffix(".npy") ? .npy : .raw)
  }
}
