import ClusterModel
import Digests

/// Reads the tensors of one checkpoint that was loaded; stays on one thread.
///
/// Every tensor is hashed as it is read, so what does not throw is what was committed, whatever has happened
/// to the files since they were verified.
public final class CheckpointReader {
  public let manifest: CheckpointManifest
  private let store: CheckpointStore
  private var layouts: [String: PartLayout] = [:]

  public init(store: CheckpointStore, manifest: CheckpointManifest) {
    self.store = store
    self.manifest = manifest
  }

  /// Size of a tensor in bytes.
  public func byteCount(of path: String) throws(CheckpointError) -> Int {
    TensorShape.byteCount(try record(path).shape) ?? 0
  }

  /// Reads a tensor's little-endian row-major bytes.
  /// - Parameter buffer: of just the tensor's size; undefined when the call throws.
  public func read(_ path: String, into buffer: UnsafeMutableRawBufferPointer) throws(CheckpointError) {
    let tensor = try record(path)
    guard buffer.count == TensorShape.byteCount(tensor.shape) else {
      throw .damaged(
        step: manifest.step, file: tensor.file,
        problem: .wrongShape(path: path, expected: [buffer.count / TensorShape.elementBytes], found: tensor.shape))
    }
    try stream(path, tensor) { offset, count in
      UnsafeMutableRawBufferPointer(rebasing: buffer[offset..<offset + count])
    }
  }

  /// Reads a tensor in slices, in order, through a small buffer; `body` gets the offset in bytes and the bytes.
  ///
  /// When the call throws at its end, the bytes handed out were not what was committed.
  public func forEachSlice(
    _ path: String, _ body: (Int, UnsafeRawBufferPointer) throws(CheckpointError) -> Void
  ) throws(CheckpointError) {
    let tensor = try record(path)
    try CheckpointStore.withSlice { buffer throws(CheckpointError) in
      try stream(path, tensor) { _, count in
        UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
      } each: { offset, bytes throws(CheckpointError) in
        try body(offset, bytes)
      }
    }
  }

  /// All elements of a tensor.
  public func floats(_ path: String) throws(CheckpointError) -> [Float] {
    var values = [Float](repeating: 0, count: try byteCount(of: path) / TensorShape.elementBytes)
    try values.withUnsafeMutableBufferPointer { buffer throws(CheckpointError) in
      try read(path, into: UnsafeMutableRawBufferPointer(buffer))
    }
    return values
  }

  private func record(_ path: String) throws(CheckpointError) -> CheckpointManifest.Tensor {
    guard let tensor = manifest.tensors[path] else { throw .unknownTensor(step: manifest.step, path: path) }
    return tensor
  }

  private func stream(
    _ path: String, _ tensor: CheckpointManifest.Tensor,
    target: (Int, Int) -> UnsafeMutableRawBufferPointer,
    each: (Int, UnsafeRawBufferPointer) throws(CheckpointError) -> Void = { _, _ in }
  ) throws(CheckpointError) {
    do throws(CheckpointError) {
      let range = try layout(of: tensor.file).ranges[path] ?? 0..<0
      let disk = try DiskFile.reading(store.path(manifest.step, tensor.file))
      var hash = SHA256()
      var offset = 0
      while offset < range.count {
        let count = min(CheckpointStore.sliceBytes, range.count - offset)
        let buffer = target(offset, count)
        guard try disk.read(into: buffer, at: range.lowerBound + UInt64(offset)) == count else {
          throw CheckpointError.damaged(
            step: manifest.step, file: tensor.file,
            problem: .wrongSize(
              expectedBytes: manifest.files[tensor.file]?.sizeBytes ?? 0, foundBytes: try disk.sizeBytes()))
        }
        let bytes = UnsafeRawBufferPointer(buffer)
        hash.update(bytes)
        try each(offset, bytes)
        offset += count
      }
      guard hash.finish().hexadecimal == tensor.sha256 else {
        throw CheckpointError.damaged(
          step: manifest.step, file: tensor.file, problem: .wrongTensorHash(path: path))
      }
    } catch {
      throw CheckpointStore.damage(manifest.step, tensor.file, error)
    }
  }

  private func layout(of file: String) throws(CheckpointError) -> PartLayout {
    if let layout = layouts[file] { return layout }
    try store.checkSize(of: file, manifest)
    let layout = try PartLayout(store, manifest, file: file)
    layouts[file] = layout
    return layout
  }
}
