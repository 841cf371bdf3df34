import ClusterModel

/// One step's folder, as far as a glance shows.
public struct CheckpointEntry: Sendable {
  public enum State: Sendable {
    /// Manifest and file sizes are right; the bytes were not read.
    case committed(CheckpointManifest)
    /// Without a manifest: being written, or left by a crash.
    case uncommitted
    case damaged(CheckpointError)
  }
  public var step: Step
  public var state: State
  public var fileCount: Int
  public var sizeBytes: UInt64
  /// Last change, in seconds since 1970.
  public var modifiedSeconds: Int
}

extension CheckpointStore {
  /// All steps that have a folder, ascending.
  public func list() throws(CheckpointError) -> [CheckpointEntry] {
    var entries: [CheckpointEntry] = []
    for step in try steps() {
      let folder = directory(of: step)
      var entry = CheckpointEntry(
        step: step, state: .uncommitted, fileCount: 0, sizeBytes: 0,
        modifiedSeconds: try DiskDirectory.status(folder)?.modified ?? 0)
      for name in try DiskDirectory.names(folder) ?? [] {
        guard let status = try DiskDirectory.status(folder + "/" + name) else { continue }
        entry.fileCount += 1
        entry.sizeBytes &+= status.sizeBytes
        entry.modifiedSeconds = max(entry.modifiedSeconds, status.modified)
      }
      if try isCommitted(step) {
        do throws(CheckpointError) { entry.state = .committed(try quickCheck(step)) } catch {
          entry.state = .damaged(error)
        }
      }
      entries.append(entry)
    }
    return entries
  }

  /// The newest step that has a manifest; its content is not looked at.
  public func newestCommitted() throws(CheckpointError) -> Step {
    let steps = try steps()
    for step in steps.reversed() where try isCommitted(step) { return step }
    guard !steps.isEmpty else { throw .noCheckpoint(directory: directory) }
    throw .noneUsable(
      directory: directory,
      rejected: steps.map { .damaged(step: $0, file: CheckpointNames.manifest, problem: .missing) })
  }

  /// Removes committed checkpoints that are neither among the last `keepLast` nor multiples of `keepEvery`.
  ///
  /// The newest valid checkpoint always stays, whatever its step: while newer ones are damaged it is the one to
  /// resume from, and when none is valid nothing is removed.
  /// - Parameters:
  ///   - keepLast: how many of the newest stay; at least 1.
  ///   - keepEvery: steps that stay for good; nil or 0 for none.
  ///   - verified: steps whose bytes this process knows to be right (just committed): only their sizes are
  ///     looked at again. Others are read.
  ///   - fence: what each uncommitting passes; files are removed after it.
  /// - Returns: the steps removed, ascending.
  @discardableResult
  public func applyRetention(
    keepLast: Int, keepEvery: Step?, verified: Set<Step> = [], fence: CheckpointFence = CheckpointStore.unfenced
  ) throws(CheckpointError) -> [Step] {
    var committed: [Step] = []
    for step in try steps() where try isCommitted(step) { committed.append(step) }
    let last = Set(committed.suffix(max(1, keepLast)))
    var removable = committed.filter { step in
      let forGood = if let keepEvery, keepEvery > 0 { step % keepEvery == 0 } else { false }
      return !last.contains(step) && !forGood
    }
    guard !removable.isEmpty else { return [] }
    let newestValid = committed.reversed().first { step in
      do throws(CheckpointError) {
        _ = verified.contains(step) ? try quickCheck(step) : try load(step: step)
        return true
      } catch {
        return false
      }
    }
    guard let newestValid else { return [] }
    removable.removeAll { $0 == newestValid }
    for step in removable { try remove(step, fence: fence) }
    return removable
  }

  /// Removes what is not a checkpoint: folders without a manifest and unfinished files beside committed ones.
  ///
  /// Only the coordinator that holds the run directory may call it, while no part is being written.
  /// - Parameter except: steps being written.
  /// - Returns: the steps whose folders were removed, ascending.
  @discardableResult
  public func removeUncommitted(except: Set<Step> = []) throws(CheckpointError) -> [Step] {
    var removed: [Step] = []
    for step in try steps() where !except.contains(step) {
      if try isCommitted(step) {
        let folder = directory(of: step)
        for name in try DiskDirectory.names(folder) ?? [] where name.hasSuffix(CheckpointNames.partial) {
          try DiskDirectory.removeFile(folder + "/" + name)
        }
      } else {
        try remove(step)
        removed.append(step)
      }
    }
    return removed
  }

  /// Why a checkpoint is set aside; its folder's new name begins with it.
  public enum SetAsideReason: String, Sendable {
    case damaged
    /// It is of a step that the run's record does not reach.
    case unrecorded
  }

  /// Takes a checkpoint out of the way, so that its step can be written again; its files stay for inspection under a
  /// name that nothing here reads.
  /// - Returns: the new folder.
  @discardableResult
  public func setAside(step: Step, as reason: SetAsideReason = .damaged) throws(CheckpointError) -> String {
    let from = directory(of: step)
    guard try DiskDirectory.status(from) != nil else { throw .notFound(step: step, directory: directory) }
    let name = "\(directory)/\(reason.rawValue)-\(CheckpointNames.directory(step))"
    var to = name
    var attempt = 1
    while try DiskDirectory.status(to) != nil {
      attempt += 1
      to = "\(name)-\(attempt)"
    }
    try DiskDirectory.rename(from, to: to)
    try DiskDirectory.flush(directory)
    return to
  }

  /// Uncommits first: a crash on the way leaves leftovers, never half a checkpoint that looks whole.
  private func remove(_ step: Step, fence: CheckpointFence = CheckpointStore.unfenced) throws(CheckpointError) {
    let folder = directory(of: step)
    var names: [String] = []
    try fence { () throws(CheckpointError) in
      try DiskDirectory.removeFile(path(step, CheckpointNames.manifest))
      // Those that are there now: what others write afterwards has other names.
      names = try DiskDirectory.names(folder) ?? []
    }
    try DiskDirectory.flush(folder)
    try reached(.manifestRemoved)
    for name in names { try DiskDirectory.removeFile(folder + "/" + name) }
    try DiskDirectory.removeEmpty(folder)
    try DiskDirectory.flush(directory)
  }
}
