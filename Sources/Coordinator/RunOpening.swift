import Checkpoints
import ClusterModel
import ControlPlane
import Foundation
import Logging
import Wire

/// A run, checked against the settings, with the state to begin from.
struct RunOpening {
  let journal: Journal
  let store: CheckpointStore
  let run: RunID
  let start: CoordinatorStart

  /// - Precondition: this process holds the directory's lock.
  init(_ settings: CoordinatorSettings, in directory: RunDirectory, log: Logger, now: Double) throws(CoordinatorError) {
    let isNew = !directory.hasJournal
    let journal = try Journal(path: directory.journal)
    let store = CheckpointStore(directory: directory.checkpoints)
    try Self.checkIdentity(settings, journal)
    let run: RunID
    if let text = try journal.fact(.run) { run = RunID(text) } else { run = Self.drawRunID() }

    let committed = try journal.committedSteps()
    let found = try Self.findState(
      settings, store, known: Set(try journal.checkpoints().map(\.step)),
      record: try Self.record(of: journal, committed: committed), log)
    let skips = try journal.skippedSamples(perStep: settings.samplesPerStep)
    if let manifest = found.manifest {
      guard manifest.data.fingerprint == settings.dataFingerprint else {
        throw .dataChanged(expected: manifest.data.fingerprint, found: settings.dataFingerprint)
      }
      let expected = skips.nextSample(manifest.step, perStep: settings.samplesPerStep)
      guard manifest.data.nextSample == expected else {
        throw .checkpointPosition(step: manifest.step, expected: expected, found: manifest.data.nextSample)
      }
      if isNew {
        log.warning("\(directory.path) has checkpoints but no journal: the steps before are not in its record")
      }
      log.info("resuming from the checkpoint of step \(manifest.step)")
    }
    let from = found.manifest?.step ?? 0
    if committed > from {
      log.info(
        "steps \(from) to \(committed - 1) were committed after it: they are made anew unless workers still hold them")
    }

    try journal.set(.run, run.text)
    if committed == 0 { try journal.set(.firstStep, "\(from)") }
    try journal.set(.identity, settings.identity)
    try journal.set(.dataFingerprint, settings.dataFingerprint)
    try journal.set(.totalSteps, "\(settings.totalSteps)")
    try journal.set(.tokensPerStep, "\(settings.tokensPerStep)")
    try journal.set(.samplesPerStep, "\(settings.samplesPerStep)")
    try journal.set(.leaves, "\(settings.shape.leaves)")
    try journal.set(.outcome, nil)
    try directory.writeConfiguration(settings.configuration)
    let generation = try journal.beginGeneration(
      host: Self.hostName, processID: ProcessInfo.processInfo.processIdentifier, at: now)
    let newest = try journal.newestSteps(1).last?.record
    var start = CoordinatorStart(
      generation: generation, fromStep: from, committed: committed,
      norm: newest.map(CommittedNorm.init), isRewind: settings.resume.isRewind, lastCheckpoint: found.manifest?.step,
      nextWorker: try journal.nextWorkerNumber(), evaluated: Set(try journal.validations().map(\.step)),
      saved: found.saved, deviceFingerprint: try Self.device(found.manifest, committed: committed, journal))
    if let plan = try journal.newestPlan() { start.lastPlaced = Set(plan.plan.places.joined()) }
    start.skips = skips
    start.expelled = Set(try journal.expulsions().map(\.worker))
    if let spike = settings.lossSpike {
      start.recent = try journal.newestSteps(spike.window).map(\.record)
    }
    self.start = start
    self.journal = journal
    self.store = store
    self.run = run
  }

  /// The states that the journal's record leads from and to; nil when it has no step and does not say where it begins.
  ///
  /// A checkpoint beyond it was written before a disk lost records that it had said to keep. To begin from that one would
  /// leave steps out of the record: they are made anew instead.
  private static func record(of journal: Journal, committed: Step) throws(CoordinatorError) -> ClosedRange<Step>? {
    let first = try journal.fact(.firstStep).flatMap { Step($0) }
    if committed > 0 { return min(first ?? 0, committed)...committed }
    return first == 0 ? 0...0 : nil
  }

  /// What the run was computed on; a plan that never made a step binds nobody.
  private static func device(_ manifest: CheckpointManifest?, committed: Step, _ journal: Journal)
    throws(CoordinatorError) -> String?
  {
    guard manifest != nil || committed > 0 else { return nil }
    if let device = try journal.fact(.device) { return device }
    return manifest.flatMap { $0.device.isEmpty ? nil : $0.device }
  }

  static var hostName: String { ProcessInfo.processInfo.hostName }

  private static func drawRunID() -> RunID {
    let digits = (0..<2).map { _ in
      let text = String(UInt64.random(in: 0...UInt64.max), radix: 16)
      return String(repeating: "0", count: 16 - text.count) + text
    }
    return RunID(digits.joined())
  }

  private static func checkIdentity(_ settings: CoordinatorSettings, _ journal: Journal) throws(CoordinatorError) {
    if let data = try journal.fact(.dataFingerprint), data != settings.dataFingerprint {
      throw .dataChanged(expected: data, found: settings.dataFingerprint)
    }
    guard let old = try journal.fact(.identity), old != settings.identity else { return }
    func lines(_ text: String) -> [String] { text.split(separator: "\n").map(String.init) }
    let before = lines(old)
    let after = lines(settings.identity)
    let gone = before.filter { !after.contains($0) }
    let come = after.filter { !before.contains($0) }
    var differences = zip(gone, come).map { "\($0) became \($1)" }
    differences += gone.dropFirst(come.count).map { "\($0) is gone" }
    differences += come.dropFirst(gone.count).map { "\($0) is new" }
    throw .identityChanged(differences: differences.isEmpty ? ["its order"] : Array(differences.prefix(8)))
  }

  /// The checkpoint to begin from and those after it. Damaged ones are named and put aside, unfinished ones removed.
  ///
  /// - Parameters:
  ///   - known: steps whose checkpoints the journal saw committed: they do not vanish without a word.
  ///   - record: the states to begin from.
  private static func findState(
    _ settings: CoordinatorSettings, _ store: CheckpointStore, known: Set<Step>, record: ClosedRange<Step>?,
    _ log: Logger
  ) throws(CoordinatorError) -> (manifest: CheckpointManifest?, saved: Set<Step>) {
    if case .step(let step) = settings.resume, let record, !record.contains(step) {
      throw .outsideRecord(step: step, record: record)
    }
    var manifest: CheckpointManifest?
    var saved: Set<Step> = []
    do throws(CheckpointError) {
      switch settings.resume {
      case .newest:
        if let end = record?.upperBound { try putAside(beyond: end, store, log) }
        do throws(CheckpointError) {
          let found = try store.newestValid(expecting: settings.checkpointShapes)
          manifest = found.manifest
          for error in found.rejected { try reject(error, store, log) }
        } catch {
          // From the seed it can be made anew only if the record begins there.
          guard known.isEmpty, record?.lowerBound ?? 0 == 0 else { throw error }
          switch error {
          case .noCheckpoint: break
          case .noneUsable(_, let rejected):
            // Leftovers of writing alone mean that the run had no checkpoint yet.
            guard try !hasCommitted(store) else { throw error }
            for error in rejected { log.notice("no checkpoint, but an unfinished one: \(error)") }
          default: throw error
          }
        }
      case .step(let step):
        if step > 0 { manifest = try store.load(step: step, expecting: settings.checkpointShapes) }
        for entry in try store.list() where entry.step > step {
          if case .uncommitted = entry.state { continue }
          do throws(CheckpointError) {
            saved.insert(try store.load(step: entry.step, expecting: settings.checkpointShapes).step)
          } catch { try reject(error, store, log) }
        }
      }
      for entry in try store.list() where known.contains(entry.step) {
        guard case .uncommitted = entry.state else { continue }
        let place = try store.setAside(step: entry.step)
        log.warning("the checkpoint of step \(entry.step) has lost its manifest; its files are now in \(place)")
      }
      for step in try store.removeUncommitted() { log.notice("removed the unfinished checkpoint of step \(step)") }
    } catch {
      throw error.isInputOutput ? .unreadableCheckpoints(error) : .noUsableCheckpoint(error)
    }
    return (manifest, saved)
  }

  private static func putAside(beyond end: Step, _ store: CheckpointStore, _ log: Logger) throws(CheckpointError) {
    for entry in try store.list() where entry.step > end {
      if case .uncommitted = entry.state { continue }
      let place = try store.setAside(step: entry.step, as: .unrecorded)
      log.warning(
        """
        the checkpoint of step \(entry.step) is not used: the journal ends at step \(end), so it has lost records. The \
        steps after are made anew; the checkpoint's files are now in \(place)
        """)
    }
  }

  private static func hasCommitted(_ store: CheckpointStore) throws(CheckpointError) -> Bool {
    for entry in try store.list() {
      if case .uncommitted = entry.state { continue }
      return true
    }
    return false
  }

  private static func reject(_ error: CheckpointError, _ store: CheckpointStore, _ log: Logger) throws(CheckpointError)
  {
    guard !error.isInputOutput else { throw error }
    guard case .damaged(let step, _, _) = error, try store.isCommitted(step) else {
      log.warning("not using \(error)")
      return
    }
    let place = try store.setAside(step: step)
    log.warning("not using \(error); its files are now in \(place)")
  }
}
