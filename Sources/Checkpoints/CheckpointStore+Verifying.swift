import ClusterModel
import Digests

/// How far a verification has come.
public struct CheckpointProgress: Sendable, Hashable {
  public var step: Step
  public var file: String
  public var doneBytes: UInt64
  public var totalBytes: UInt64
}

extension CheckpointStore {
  public typealias ProgressHandler = (CheckpointProgress) -> Void

  /// A checkpoint whose every byte was read and found as committed.
  public struct Verified: Sendable {
    public var manifest: CheckpointManifest
    /// ``StateDigest`` computed from the tensors' bytes, hexadecimal.
    public var digest: String
  }

  /// Checks a checkpoint before it is loaded: its manifest, the SHA-256 of every file, and in each file the
  /// tensors' names, shapes, types and places. ``CheckpointReader`` then checks each tensor as it is read.
  /// - Parameter expecting: shapes by path of exactly the tensors that there must be; nil accepts any.
  /// - Throws: ``CheckpointError/damaged(step:file:problem:)`` with the file and what is wrong with it.
  public func load(
    step: Step, expecting: [String: [Int]]? = nil, progress: ProgressHandler? = nil
  ) throws(CheckpointError) -> CheckpointManifest {
    let manifest = try checkedManifest(step, expecting)
    var meter = Meter(step: step, totalBytes: manifest.sizeBytes, handler: progress)
    try Self.withSlice { buffer throws(CheckpointError) in
      for name in manifest.fileNames {
        try checkHash(of: name, manifest, buffer, &meter)
        _ = try PartLayout(self, manifest, file: name)
      }
    }
    return manifest
  }

  /// Checks everything that ``load(step:expecting:progress:)`` does and the SHA-256 of every tensor, refuses
  /// files and tensors that the manifest does not name, and computes the digest from what was read.
  public func verify(
    step: Step, expecting: [String: [Int]]? = nil, progress: ProgressHandler? = nil
  ) throws(CheckpointError) -> Verified {
    let manifest = try checkedManifest(step, expecting)
    for name in try DiskDirectory.names(directory(of: step)) ?? []
    where name != CheckpointNames.manifest && manifest.files[name] == nil {
      throw .damaged(step: step, file: name, problem: .refused(reason: "the manifest does not name it"))
    }
    var meter = Meter(step: step, totalBytes: manifest.sizeBytes * 2, handler: progress)
    var found: [(path: String, shape: [Int], sha256: String)] = []
    try Self.withSlice { buffer throws(CheckpointError) in
      for name in manifest.fileNames {
        try checkHash(of: name, manifest, buffer, &meter)
        let layout = try PartLayout(self, manifest, file: name, complete: true)
        let hashes = try tensorHashes(of: name, manifest, layout, buffer, &meter)
        for path in layout.ranges.keys.sorted() {
          guard let tensor = manifest.tensors[path], let hash = hashes[path] else { continue }
          guard hash == tensor.sha256 else {
            throw .damaged(step: step, file: name, problem: .wrongTensorHash(path: path))
          }
          found.append((path, tensor.shape, hash))
        }
      }
    }
    let digest = StateDigest.digest(step: step, tensors: found).hexadecimal
    guard digest == manifest.digest else {
      throw .damaged(
        step: step, file: CheckpointNames.manifest, problem: .wrongDigest(expected: manifest.digest, found: digest))
    }
    return Verified(manifest: manifest, digest: digest)
  }

  /// The digest of a checkpoint's state, computed from its files.
  public func digest(step: Step, progress: ProgressHandler? = nil) throws(CheckpointError) -> String {
    try verify(step: step, progress: progress).digest
  }

  /// The newest checkpoint that ``load(step:expecting:progress:)`` accepts, and why newer ones were refused.
  ///
  /// A newer step without a manifest is among the refused: it was not completed, or somebody took its manifest.
  /// - Throws: ``CheckpointError/noCheckpoint(directory:)`` or ``CheckpointError/noneUsable(directory:rejected:)``;
  ///   ``CheckpointError/inputOutput(operation:file:code:)`` when a newer one could not be read: it may be whole.
  public func newestValid(
    notAbove limit: Step? = nil, expecting: [String: [Int]]? = nil, progress: ProgressHandler? = nil
  ) throws(CheckpointError) -> (manifest: CheckpointManifest, rejected: [CheckpointError]) {
    var rejected: [CheckpointError] = []
    for step in try steps().reversed() where limit.map({ step <= $0 }) ?? true {
      do throws(CheckpointError) {
        return (try load(step: step, expecting: expecting, progress: progress), rejected)
      } catch {
        guard !error.isInputOutput else { throw error }
        rejected.append(error)
      }
    }
    throw rejected.isEmpty ? .noCheckpoint(directory: directory) : .noneUsable(directory: directory, rejected: rejected)
  }

  /// Manifest and sizes, without reading the files.
  func quickCheck(_ step: Step) throws(CheckpointError) -> CheckpointManifest {
    let manifest = try manifest(of: step)
    for name in manifest.fileNames { try checkSize(of: name, manifest) }
    return manifest
  }

  private func checkedManifest(_ step: Step, _ expecting: [String: [Int]]?) throws(CheckpointError)
    -> CheckpointManifest
  {
    let manifest = try manifest(of: step)
    if let expecting {
      for path in expecting.keys.sorted() where manifest.tensors[path] == nil {
        throw .damaged(step: step, file: CheckpointNames.manifest, problem: .tensorMissing(path: path))
      }
      for path in manifest.tensorPaths {
        guard let tensor = manifest.tensors[path] else { continue }
        guard let shape = expecting[path] else {
          throw .damaged(step: step, file: CheckpointNames.manifest, problem: .unexpectedTensor(path: path))
        }
        guard shape == tensor.shape else {
          throw .damaged(
            step: step, file: CheckpointNames.manifest,
            problem: .wrongShape(path: path, expected: shape, found: tensor.shape))
        }
      }
    }
    for name in manifest.fileNames { try checkSize(of: name, manifest) }
    return manifest
  }

  private func checkHash(
    of name: String, _ manifest: CheckpointManifest, _ buffer: UnsafeMutableRawBufferPointer, _ meter: inout Meter
  ) throws(CheckpointError) {
    guard let expected = manifest.files[name] else { return }
    do throws(CheckpointError) {
      let disk = try DiskFile.reading(path(manifest.step, name))
      let found = try Self.hash(disk, sizeBytes: expected.sizeBytes, buffer) { _, bytes in
        meter.advance(bytes.count, name)
      }
      guard found == expected.sha256 else {
        throw CheckpointError.damaged(
          step: manifest.step, file: name, problem: .wrongHash(expected: expected.sha256, found: found))
      }
    } catch {
      throw Self.damage(manifest.step, name, error)
    }
  }

  private func tensorHashes(
    of name: String, _ manifest: CheckpointManifest, _ layout: PartLayout, _ buffer: UnsafeMutableRawBufferPointer,
    _ meter: inout Meter
  ) throws(CheckpointError) -> [String: String] {
    do throws(CheckpointError) {
      let disk = try DiskFile.reading(path(manifest.step, name))
      var hashes = TensorRangeHashes(layout.ranges.map { ($0.key, $0.value) })
      _ = try Self.hash(disk, sizeBytes: manifest.files[name]?.sizeBytes ?? 0, buffer) { offset, bytes in
        hashes.update(bytes, at: offset)
        meter.advance(bytes.count, name)
      }
      return hashes.finish()
    } catch {
      throw Self.damage(manifest.step, name, error)
    }
  }

  /// Counts bytes and reports them.
  private struct Meter {
    let step: Step
    let totalBytes: UInt64
    let handler: ProgressHandler?
    var doneBytes: UInt64 = 0

    mutating func advance(_ bytes: Int, _ file: String) {
      doneBytes += UInt64(bytes)
      handler?(CheckpointProgress(step: step, file: file, doneBytes: doneBytes, totalBytes: totalBytes))
    }
  }
}
