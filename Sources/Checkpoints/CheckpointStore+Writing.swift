import ClusterModel
import Digests
import HDF5

extension CheckpointStore {
  /// Where a tensor lies in the file that is being written.
  private struct Placed {
    var path: String
    var shape: [Int]
    var bytes: Range<UInt64>
    var sha256 = ""
  }

  /// Writes one part of a checkpoint and returns when it is on disk under its name, read back and found right.
  ///
  /// HDF5 lays the file out; the bytes then go straight to their places, hashed on the way, in one pass and
  /// in slices. The file is flushed, its pages are dropped, and it is read back: its SHA-256 is that of the disk.
  /// On failure nothing is left under the part's name.
  /// - Parameter file: plain name ending in `.h5`, different for every part of the step.
  public func writePart(step: Step, file: String, tensors: [TensorSource]) throws(CheckpointError) -> PartRecord {
    try check(tensors, file: file, step: step)
    guard try !isCommitted(step) else { throw .alreadyCommitted(step: step) }
    try makeDirectory(of: step)
    try reached(.directoryMade)
    let final = path(step, file)
    let partial = final + CheckpointNames.partial
    do throws(CheckpointError) {
      let placed = try layOut(step: step, partial, tensors)
      try reached(.skeletonWritten)
      let record = try fill(step: step, partial, file: file, tensors, placed)
      // A manifest can have come while this part was written, by another coordinator's hand.
      guard try !isCommitted(step) else { throw CheckpointError.alreadyCommitted(step: step) }
      try DiskDirectory.rename(partial, to: final)
      try reached(.renamed)
      try DiskDirectory.flush(directory(of: step))
      try reached(.partDurable)
      return record
    } catch {
      if case .interrupted = error { throw error }
      // What went wrong is the news; that the rest of it could not be removed as well is not.
      try? DiskDirectory.removeFile(partial)
      throw error
    }
  }

  private func check(_ tensors: [TensorSource], file: String, step: Step) throws(CheckpointError) {
    guard CheckpointNames.isPartFile(file) else {
      throw .invalidPart(step: step, reason: "'\(file)' is not a plain file name ending in .h5")
    }
    var paths: Set<String> = []
    for tensor in tensors {
      guard CheckpointNames.isTensorPath(tensor.path) else {
        throw .invalidPart(step: step, reason: "'\(tensor.path)' is not the path of a tensor")
      }
      guard paths.insert(tensor.path).inserted else {
        throw .invalidPart(step: step, reason: "\(tensor.path) is given twice")
      }
      guard let bytes = tensor.byteCount else {
        throw .invalidPart(step: step, reason: "\(tensor.path) has the shape \(tensor.shape)")
      }
      guard tensor.givenByteCount == nil || tensor.givenByteCount == bytes else {
        throw .invalidPart(
          step: step,
          reason: "\(tensor.path) of shape \(tensor.shape) needs \(bytes) bytes and has \(tensor.givenByteCount ?? 0)")
      }
    }
  }

  /// Creates the file with all its datasets, without their bytes.
  private func layOut(step: Step, _ path: String, _ tensors: [TensorSource]) throws(CheckpointError) -> [Placed] {
    // HDF5 cannot be stopped cleanly by a full disk, so it only starts where its metadata has room.
    let metadata = UInt64(tensors.count) * 2048 + 65_536
    let needed = tensors.reduce(metadata) { $0 &+ UInt64($1.byteCount ?? 0) }
    guard try DiskDirectory.freeBytes(directory(of: step)) >= needed else {
      throw .diskFull(file: path, neededBytes: needed)
    }
    do throws(HDF5Error) {
      let file = try HDF5File(creating: path)
      try file.setAttribute("format", to: "transfusion-checkpoint-v1")
      guard let number = Int64(exactly: step) else {
        throw .wrongType(file: path, object: "step", expected: "a step below 2^63")
      }
      try file.setAttribute("step", to: number)
      var placed: [Placed] = []
      for tensor in tensors {
        let offset = try file.createDataset(tensor.path, shape: tensor.shape, type: .float32) ?? 0
        let bytes = UInt64(tensor.byteCount ?? 0)
        placed.append(Placed(path: tensor.path, shape: tensor.shape, bytes: offset..<offset + bytes))
      }
      try file.close()
      return placed
    } catch {
      if error.description.contains("No space left") { throw .diskFull(file: path, neededBytes: needed) }
      throw .library(error)
    }
  }

  /// Writes the bytes, makes them durable, and reads them back.
  private func fill(
    step: Step, _ path: String, file: String, _ tensors: [TensorSource], _ layout: [Placed]
  ) throws(CheckpointError) -> PartRecord {
    var placed = layout
    let disk = try DiskFile.updating(path)
    let size = try disk.sizeBytes()
    guard placed.allSatisfy({ $0.bytes.upperBound <= size }) else {
      throw .invalidPart(step: step, reason: "HDF5 placed a tensor outside of \(file)")
    }
    try disk.reserve(size)
    let wholeSHA256 = try Self.withSlice { buffer throws(CheckpointError) -> String in
      for (index, tensor) in tensors.enumerated() {
        var hash = SHA256()
        let start = placed[index].bytes.lowerBound
        try tensor.forEachSlice(buffer) { offset, bytes throws(CheckpointError) in
          hash.update(bytes)
          try disk.write(bytes, at: start + UInt64(offset))
        }
        placed[index].sha256 = hash.finish().hexadecimal
      }
      try reached(.bytesWritten)
      try disk.flush()
      try reached(.flushed)
      disk.forgetCached()
      var check = TensorRangeHashes(placed.map { ($0.path, $0.bytes) })
      let whole = try Self.hash(disk, sizeBytes: size, buffer) { offset, bytes in check.update(bytes, at: offset) }
      let found = check.finish()
      for tensor in placed where found[tensor.path] != tensor.sha256 {
        throw CheckpointError.damaged(step: step, file: file, problem: .wrongTensorHash(path: tensor.path))
      }
      return whole
    }
    try reached(.verified)
    return PartRecord(
      step: step, file: file, sizeBytes: size, sha256: wholeSHA256,
      tensors: placed.map { PartRecord.Tensor(path: $0.path, shape: $0.shape, sha256: $0.sha256) })
  }

  /// SHA-256 of a whole file as it is read, in hexadecimal; `each` sees every slice.
  static func hash(
    _ disk: borrowing DiskFile, sizeBytes: UInt64, _ buffer: UnsafeMutableRawBufferPointer,
    each: (UInt64, UnsafeRawBufferPointer) throws(CheckpointError) -> Void
  ) throws(CheckpointError) -> String {
    var hash = SHA256()
    var offset: UInt64 = 0
    while offset < sizeBytes {
      let wanted = Int(min(UInt64(buffer.count), sizeBytes - offset))
      let count = try disk.read(into: UnsafeMutableRawBufferPointer(rebasing: buffer[..<wanted]), at: offset)
      guard count > 0 else { break }
      let bytes = UnsafeRawBufferPointer(rebasing: buffer[..<count])
      hash.update(bytes)
      try each(offset, bytes)
      offset += UInt64(count)
    }
    return hash.finish().hexadecimal
  }
}
