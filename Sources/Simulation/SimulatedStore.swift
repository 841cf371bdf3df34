import ClusterModel
import ControlPlane
import Wire

/// The run's checkpoints on a virtual disk. Mirrors `Checkpoints/CheckpointStore`: parts are renamed into place when they
/// are whole, the manifest is the commit, loading verifies.
struct SimulatedStore {
  struct Part: Hashable {
    var tensors: [Int]
    /// Three numbers a tensor.
    var values: [UInt64]
    /// Of the bytes on disk; another one than its record's when they have rotted.
    var digest: UInt64
    /// What was written while the disk lied.
    var isFlushed: Bool
    var sizeBytes: UInt64 { UInt64(values.count * 8) }

    init(tensors: [Int], values: [UInt64], isFlushed: Bool) {
      self.tensors = tensors
      self.values = values
      self.isFlushed = isFlushed
      digest = Self.digest(values)
    }
    static func digest(_ values: [UInt64]) -> UInt64 { values.reduce(UInt64(values.count)) { mixed($0, $1) } }
    static func text(_ digest: UInt64) -> String {
      let digits = String(digest, radix: 16)
      return String(repeating: "0", count: 64 - digits.count) + digits
    }
  }
  struct Manifest {
    var nextSample: UInt64
    var parts: [CheckpointPart]
    var isFlushed: Bool
  }
  struct Folder {
    var parts: [String: Part] = [:]
    var manifest: Manifest?
    /// Where bits have rotted or bytes were lost: loading it must fail.
    var isDamaged = false
  }
  private(set) var folders: [Step: Folder] = [:]
  /// Put aside as damaged.
  private(set) var asideCount = 0

  func isCommitted(_ step: Step) -> Bool { folders[step]?.manifest != nil }
  var committed: [Step] { folders.keys.filter { isCommitted($0) }.sorted() }

  /// False when the step is committed already.
  mutating func rename(_ part: Part, to file: String, step: Step) -> Bool {
    guard !isCommitted(step) else { return false }
    folders[step, default: Folder()].parts[file] = part
    return true
  }

  /// The reason when it cannot be done.
  mutating func commit(_ request: CheckpointRequest, isFlushed: Bool) -> String? {
    guard !isCommitted(request.step) else { return "it is committed already" }
    guard var folder = folders[request.step] else { return "its folder is missing" }
    for part in request.parts {
      guard let file = folder.parts[part.file] else { return "\(part.file) is missing" }
      guard file.sizeBytes == part.sizeBytes else { return "\(part.file) has another size" }
    }
    let names = Set(request.parts.map(\.file))
    folder.parts = folder.parts.filter { names.contains($0.key) }
    folder.manifest = Manifest(nextSample: request.nextSample, parts: request.parts, isFlushed: isFlushed)
    folders[request.step] = folder
    return nil
  }

  /// All tensors of a checkpoint, verified.
  func load(_ step: Step, count: Int, trusting: Bool = false) -> StandInModel.Values? {
    guard let folder = folders[step], let manifest = folder.manifest else { return nil }
    var values = StandInModel.Values(count: count)
    var seen = 0
    for part in manifest.parts {
      guard let file = folder.parts[part.file] else { return nil }
      guard trusting || Part.text(file.digest) == part.sha256 else { return nil }
      for (place, tensor) in file.tensors.enumerated() where tensor < count {
        values.parameters[tensor] = file.values[3 * place]
        values.first[tensor] = file.values[3 * place + 1]
        values.second[tensor] = file.values[3 * place + 2]
        seen += 1
      }
    }
    return seen == count || trusting ? values : nil
  }

  /// The newest that loads and is within the record; those beyond and damaged ones are put aside.
  mutating func open(count: Int, record: Step, trusting: Bool) -> Step? {
    var found: Step?
    for step in committed.reversed() {
      if step <= record, load(step, count: count, trusting: trusting) != nil {
        found = step
        break
      }
      folders[step] = nil
      asideCount += 1
    }
    removeUncommitted()
    return found
  }

  mutating func removeUncommitted() {
    for step in folders.keys.sorted() where !isCommitted(step) { folders[step] = nil }
  }

  /// The newest that loads always stays.
  mutating func retain(last: Int, count: Int) {
    let committed = committed
    let kept = Set(committed.suffix(max(1, last)))
    guard committed.count > kept.count else { return }
    guard let valid = committed.reversed().first(where: { load($0, count: count) != nil }) else { return }
    for step in committed where !kept.contains(step) && step != valid { folders[step] = nil }
  }

  /// Flips a bit in a file of a committed checkpoint.
  mutating func rot(_ step: Step) {
    guard let name = folders[step]?.manifest?.parts.first(where: { $0.sizeBytes > 0 })?.file,
      var part = folders[step]?.parts[name]
    else { return }
    part.values[0] ^= 1 << 17
    part.digest = Part.digest(part.values)
    folders[step]?.parts[name] = part
    folders[step]?.isDamaged = true
  }

  /// Power is gone: what was said to be on disk and was not is torn.
  mutating func losePower() {
    for step in folders.keys.sorted() {
      guard var folder = folders[step] else { continue }
      for name in folder.parts.keys.sorted() where folder.parts[name]?.isFlushed == false {
        guard var part = folder.parts[name] else { continue }
        part.values = part.values.map { _ in 0 }
        part.digest = Part.digest(part.values)
        part.isFlushed = true
        folder.parts[name] = part
        folder.isDamaged = true
      }
      if folder.manifest?.isFlushed == false { folder.manifest = nil }
      folders[step] = folder
    }
  }

  /// The next honest flush of the disk makes all of it durable.
  mutating func flush() {
    for step in folders.keys.sorted() {
      for name in (folders[step]?.parts.keys.sorted() ?? []) { folders[step]?.parts[name]?.isFlushed = true }
      folders[step]?.manifest?.isFlushed = true
    }
  }
}
