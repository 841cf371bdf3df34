import ClusterModel

extension CheckpointReader {
  /// What an exported tensor looks like.
  public enum ExportFormat: Sendable {
    /// NumPy's format 1.0 (numpy.lib.format): a header with type and shape before the bytes.
    case npy
    /// The little-endian row-major bytes alone.
    case raw
  }

  /// Writes one tensor to a file of its own, replacing what is there; only a tensor whose hash is right gets the name.
  public func export(_ path: String, to file: String, format: ExportFormat) throws(CheckpointError) {
    guard let tensor = manifest.tensors[path] else { throw .unknownTensor(step: manifest.step, path: path) }
    let partial = file + CheckpointNames.partial
    do throws(CheckpointError) {
      let output = try DiskFile.creating(partial)
      var start: UInt64 = 0
      if format == .npy {
        let header = Self.npyHeader(shape: tensor.shape)
        try output.write(header)
        start = UInt64(header.count)
      }
      try forEachSlice(path) { offset, bytes throws(CheckpointError) in
        try output.write(bytes, at: start + UInt64(offset))
      }
      try DiskDirectory.rename(partial, to: file)
    } catch {
      try? DiskDirectory.removeFile(partial)
      throw error
    }
  }

  private static func npyHeader(shape: [Int]) -> [UInt8] {
    let dimensions =
      shape.count == 1 ? "\(shape[0])," : shape.map { String($0) }.joined(separator: ", ")
    var text = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(dimensions)), }"
    // Magic, version and length take ten bytes; the header ends at a multiple of 64 with a newline.
    let length = (10 + text.utf8.count + 1 + 63) / 64 * 64 - 10
    text += String(repeating: " ", count: length - text.utf8.count - 1) + "\n"
    return [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(length & 255), UInt8(length >> 8)] + Array(text.utf8)
  }
}
