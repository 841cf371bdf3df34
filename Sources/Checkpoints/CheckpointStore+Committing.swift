import ClusterModel
import Foundation

extension CheckpointStore {
  /// Makes a checkpoint of parts that are on disk: the manifest, durable, is the commit.
  ///
  /// Files in the step's folder that no part names (left by an attempt of another generation) are removed with it.
  /// - Parameter fence: what the commit itself, the renaming of the manifest, passes.
  /// - Returns: the manifest as read back.
  /// - Throws: ``CheckpointError/alreadyCommitted(step:)``, ``CheckpointError/invalidPart(step:reason:)`` when the
  ///   parts contradict each other, ``CheckpointError/damaged(step:file:problem:)`` when one is not on disk,
  ///   ``CheckpointError/notPermitted(reason:)`` of the fence.
  @discardableResult
  public func commit(
    step: Step, parts: [PartRecord], context: CheckpointContext, fence: CheckpointFence = CheckpointStore.unfenced
  ) throws(CheckpointError) -> CheckpointManifest {
    guard try !isCommitted(step) else { throw .alreadyCommitted(step: step) }
    let manifest = try CheckpointManifest(step: step, parts: parts, context: context)
    for name in manifest.fileNames { try checkSize(of: name, manifest) }
    let folder = directory(of: step)
    let bytes = try manifest.encoded()
    let final = path(step, CheckpointNames.manifest)
    // Never the file of another coordinator, which may be stopped anywhere in here.
    let partialName = "\(CheckpointNames.manifest).\(UUID().uuidString)\(CheckpointNames.partial)"
    let partial = folder + "/" + partialName
    do throws(CheckpointError) {
      let file = try DiskFile.creating(partial)
      try file.write(bytes)
      try reached(.manifestWritten)
      try file.flush()
      try reached(.manifestFlushed)
      file.forgetCached()
    } catch {
      if case .interrupted = error { throw error }
      try? DiskDirectory.removeFile(partial)
      throw error
    }
    guard try Self.contents(of: partial, limitBytes: CheckpointManifest.limitBytes) == bytes else {
      try DiskDirectory.removeFile(partial)
      throw .damaged(
        step: step, file: CheckpointNames.manifest, problem: .unreadable(reason: "it reads back differently"))
    }
    // The names of the parts are durable before the name of the manifest can be.
    try DiskDirectory.flush(folder)
    do throws(CheckpointError) {
      try fence { () throws(CheckpointError) in
        for name in try DiskDirectory.names(folder) ?? []
        where manifest.files[name] == nil && name != partialName {
          try DiskDirectory.removeFile(folder + "/" + name)
        }
        try reached(.strangersRemoved)
        try DiskDirectory.rename(partial, to: final)
      }
    } catch {
      if case .interrupted = error { throw error }
      try? DiskDirectory.removeFile(partial)
      throw error
    }
    try reached(.manifestRenamed)
    guard try Self.contents(of: final, limitBytes: CheckpointManifest.limitBytes) == bytes else {
      throw .damaged(step: step, file: CheckpointNames.manifest, problem: .unreadable(reason: "it is another one's"))
    }
    try DiskDirectory.flush(folder)
    try DiskDirectory.flush(directory)
    try reached(.committed)
    return try self.manifest(of: step)
  }

  /// The manifest of a step, checked in itself; its files are not looked at.
  public func manifest(of step: Step) throws(CheckpointError) -> CheckpointManifest {
    let name = CheckpointNames.manifest
    guard try DiskDirectory.status(directory(of: step)) != nil else {
      throw .notFound(step: step, directory: directory)
    }
    let bytes: [UInt8]
    do throws(CheckpointError) {
      bytes = try Self.contents(of: path(step, name), limitBytes: CheckpointManifest.limitBytes)
    } catch {
      throw Self.damage(step, name, error)
    }
    do throws(CheckpointProblem) { return try CheckpointManifest(bytes: bytes, step: step) } catch {
      throw .damaged(step: step, file: name, problem: error)
    }
  }

  /// A whole small file.
  static func contents(of path: String, limitBytes: UInt64) throws(CheckpointError) -> [UInt8] {
    let file = try DiskFile.reading(path)
    let size = try file.sizeBytes()
    guard size <= limitBytes else { throw DiskFile.failure("read", path, ERANGE) }
    return try file.read(count: Int(size))
  }

  /// A failure to read a file of a checkpoint, told as what is wrong with the checkpoint.
  ///
  /// Other codes (no permission, too many open files, a server that is away) tell nothing about the bytes and stay
  /// errors of input and output: a checkpoint is never given up for them.
  static func damage(_ step: Step, _ file: String, _ error: CheckpointError) -> CheckpointError {
    switch error {
    case .inputOutput(_, _, ENOENT), .inputOutput(_, _, ENOTDIR): .damaged(step: step, file: file, problem: .missing)
    case .inputOutput(_, _, ELOOP), .inputOutput(_, _, EISDIR), .inputOutput(_, _, ENXIO):
      .damaged(step: step, file: file, problem: .notRegularFile)
    case .inputOutput(_, _, ERANGE):
      .damaged(
        step: step, file: file,
        problem: .refused(reason: "it is larger than \(CheckpointManifest.limitBytes) bytes"))
    case .library(let error): .damaged(step: step, file: file, problem: .unreadable(reason: error.description))
    default: error
    }
  }

  /// Whether a file is there with the size that the manifest records.
  func checkSize(of name: String, _ manifest: CheckpointManifest) throws(CheckpointError) {
    guard let expected = manifest.files[name] else { return }
    do throws(CheckpointError) {
      let size = try DiskFile.reading(path(manifest.step, name)).sizeBytes()
      guard size == expected.sizeBytes else {
        throw .damaged(
          step: manifest.step, file: name,
          problem: .wrongSize(expectedBytes: expected.sizeBytes, foundBytes: size))
      }
    } catch {
      throw Self.damage(manifest.step, name, error)
    }
  }
}
