import ClusterModel
import HDF5

/// Where the tensors of one part lie in its file, as HDF5 says and as the manifest allows.
struct PartLayout {
  /// Byte ranges by tensor path.
  let ranges: [String: Range<UInt64>]

  /// Opens a part and holds every tensor that the manifest places in it against the manifest: present through
  /// hard links, of the recorded shape, contiguous float32, inside the file, apart from each other.
  /// - Parameter complete: also refuse datasets that the manifest does not name.
  init(_ store: CheckpointStore, _ manifest: CheckpointManifest, file name: String, complete: Bool = false)
    throws(CheckpointError)
  {
    do throws(CheckpointProblem) {
      ranges = try Self.ranges(store.path(manifest.step, name), manifest, file: name, complete: complete)
    } catch {
      throw .damaged(step: manifest.step, file: name, problem: error)
    }
  }

  private static func ranges(
    _ path: String, _ manifest: CheckpointManifest, file name: String, complete: Bool
  ) throws(CheckpointProblem) -> [String: Range<UInt64>] {
    let file = try reading { () throws(HDF5Error) in try HDF5Map(reading: path) }
    var ranges: [String: Range<UInt64>] = [:]
    for path in manifest.tensorPaths {
      guard let tensor = manifest.tensors[path], tensor.file == name else { continue }
      ranges[path] = try range(path, tensor, in: file, sizeBytes: manifest.files[name]?.sizeBytes ?? 0)
    }
    if complete {
      let found = try reading { () throws(HDF5Error) in try file.datasets() }
      if let stranger = found.first(where: { ranges[$0] == nil }) { throw .unexpectedTensor(path: stranger) }
    }
    if let path = TensorRangeHashes.overlap(ranges.map { ($0.key, $0.value) }) {
      throw .refused(reason: "\(path) shares its bytes with another tensor")
    }
    return ranges
  }

  private static func reading<Result>(_ body: () throws(HDF5Error) -> Result) throws(CheckpointProblem) -> Result {
    do throws(HDF5Error) { return try body() } catch { throw .unreadable(reason: error.description) }
  }

  private static func range(
    _ path: String, _ tensor: CheckpointManifest.Tensor, in file: HDF5Map, sizeBytes: UInt64
  ) throws(CheckpointProblem) -> Range<UInt64> {
    let dataset: HDF5Dataset
    do throws(HDF5Error) { dataset = try file.dataset(path) } catch {
      switch error {
      case .missing: throw .tensorMissing(path: path)
      case .refused(_, let object, let reason): throw .refused(reason: "\(object) \(reason)")
      case .wrongKind: throw .wrongType(path: path, found: "no dataset")
      case .wrongShape(_, _, let shape, _): throw .wrongShape(path: path, expected: tensor.shape, found: shape)
      default: throw .unreadable(reason: error.description)
      }
    }
    guard dataset.shape == tensor.shape else {
      throw .wrongShape(path: path, expected: tensor.shape, found: dataset.shape)
    }
    guard dataset.type == .float32 else { throw .wrongType(path: path, found: dataset.type.rawValue) }
    guard dataset.layout == .contiguous else { throw .wrongType(path: path, found: "pieces") }
    let bytes = UInt64(dataset.count * TensorShape.elementBytes)
    guard bytes > 0 else { return 0..<0 }
    guard let offset = dataset.fileOffset, dataset.storedBytes == bytes else {
      throw .wrongType(path: path, found: "\(dataset.storedBytes) stored bytes")
    }
    let (end, overflow) = offset.addingReportingOverflow(bytes)
    guard !overflow, end <= sizeBytes else { throw .refused(reason: "\(path) lies outside the file") }
    return offset..<end
  }
}
