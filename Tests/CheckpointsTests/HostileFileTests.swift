import CHDF5
import Checkpoints
import ClusterModel
import Digests
import Foundation
import HDF5
import Testing

/// Checkpoints whose manifest is right about every byte of files that somebody made to do harm.
@Suite struct HostileFileTests {
  private static let path = "/parameters/a"

  /// Commits step 1 with a file made by `build`, claiming that it holds four elements at ``path``.
  private func commit(
    _ directory: TemporaryDirectory, shape: [Int] = [4], build: (String) throws -> Void
  ) throws -> CheckpointStore {
    let store = CheckpointStore(directory: directory("checkpoints"))
    try FileManager.default.createDirectory(atPath: store.directory(of: 1), withIntermediateDirectories: true)
    let file = store.directory(of: 1) + "/worker-0001.h5"
    try build(file)
    let bytes = try Damage.bytes(file)
    let zero = [UInt8](repeating: 0, count: 4 * shape.reduce(1, *))
    let tensor = PartRecord.Tensor(path: Self.path, shape: shape, sha256: SHA256.digest(of: zero).hexadecimal)
    let part = PartRecord(
      step: 1, file: "worker-0001.h5", sizeBytes: UInt64(bytes.count),
      sha256: SHA256.digest(of: bytes).hexadecimal, tensors: [tensor])
    try store.commit(step: 1, parts: [part], context: Sample.context)
    return store
  }

  /// Makes a file with a sound tensor at `/b`, then changes it through the C library.
  private func make(_ file: String, _ change: (hid_t) -> Int32) throws {
    let writer = try HDF5File(creating: file)
    try writer.write([Float](repeating: 0, count: 4), shape: [4], to: "/b")
    try writer.write([Float](repeating: 0, count: 4), shape: [4], to: "/parameters/other")
    try writer.close()
    let status = HDF5Library.locked { () -> Int32 in
      let id = H5Fopen(file, 1, 0)
      defer { H5Fclose(id) }
      return id < 0 ? -1 : change(id)
    }
    try #require(status >= 0)
  }

  private func expect(_ problem: CheckpointProblem, _ store: CheckpointStore) {
    let expected = CheckpointError.damaged(step: 1, file: "worker-0001.h5", problem: problem)
    #expect(throws: expected) { try store.load(step: 1) }
    #expect(throws: expected) { try store.verify(step: 1) }
    #expect(throws: CheckpointError.noneUsable(directory: store.directory, rejected: [expected])) {
      try store.newestValid()
    }
    #expect(throws: CheckpointError.self) {
      try CheckpointReader(store: store, manifest: try store.manifest(of: 1)).floats(Self.path)
    }
  }

  @Test func softLinksAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) { try make($0) { H5Lcreate_soft("/b", $0, Self.path, 0, 0) } }
    expect(.refused(reason: "/parameters/a is a soft link"), store)
  }

  @Test func linksToOtherFilesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      try make($0) { H5Lcreate_external("/etc/passwd", "/b", $0, Self.path, 0, 0) }
    }
    expect(.refused(reason: "/parameters/a is a link to another file"), store)
  }

  @Test func bytesInOtherFilesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      try make($0) { file in
        create(file, [4]) { H5Pset_external($0, "/etc/passwd", 0, 16) }
      }
    }
    expect(.refused(reason: "/parameters/a keeps its bytes in another file"), store)
  }

  @Test func otherTypesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      let file = try HDF5File(creating: $0)
      try file.write([Int32](repeating: 0, count: 4), shape: [4], to: Self.path)
      try file.close()
    }
    expect(.wrongType(path: Self.path, found: "int32"), store)
  }

  @Test func otherShapesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      let file = try HDF5File(creating: $0)
      try file.write([Float](repeating: 0, count: 400), shape: [400], to: Self.path)
      try file.close()
    }
    expect(.wrongShape(path: Self.path, expected: [4], found: [400]), store)
  }

  /// A shape of 2^60 elements in a file of a few kilobytes, none of which are stored.
  @Test func shapesBeyondTheFileAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      try make($0) { file in
        create(file, [1 << 30, 1 << 30]) { H5Pset_chunk($0, 2, [1, 1]) }
      }
    }
    expect(.wrongShape(path: Self.path, expected: [4], found: [1 << 30, 1 << 30]), store)
    let file = try HDF5File(reading: store.directory(of: 1) + "/worker-0001.h5")
    #expect(throws: HDF5Error.self) { try file.floats(Self.path) }
  }

  @Test func shapesBeyondCountingAreRefused() throws {
    let directory = try TemporaryDirectory()
    let huge: hsize_t = 1 << 31
    let store = try commit(directory) {
      try make($0) { file in create(file, [huge, huge, 1 << 10]) { H5Pset_chunk($0, 3, [1, 1, 1]) } }
    }
    #expect {
      try store.load(step: 1)
    } throws: {
      if case .damaged(step: 1, _, .wrongShape) = $0 as? CheckpointError { true } else { false }
    }
  }

  @Test func tensorsInPiecesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      try make($0) { file in create(file, [4]) { H5Pset_chunk($0, 1, [2]) } }
    }
    expect(.wrongType(path: Self.path, found: "pieces"), store)
  }

  @Test func tensorsWithoutBytesAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) { try make($0) { file in create(file, [4]) { _ in 0 } } }
    expect(.wrongType(path: Self.path, found: "0 stored bytes"), store)
  }

  @Test func groupsAndMissingTensorsAreRefused() throws {
    let directory = try TemporaryDirectory()
    let group = try commit(directory) {
      let file = try HDF5File(creating: $0)
      try file.write([Float](repeating: 0, count: 4), shape: [4], to: Self.path + "/inside")
      try file.close()
    }
    expect(.wrongType(path: Self.path, found: "no dataset"), group)
    let other = try TemporaryDirectory()
    expect(.tensorMissing(path: Self.path), try commit(other) { try make($0) { _ in 0 } })
  }

  @Test func tensorsThatTheManifestDoesNotNameFailVerification() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      let file = try HDF5File(creating: $0)
      for path in [Self.path, "/parameters/hidden"] {
        try file.write([Float](repeating: 0, count: 4), shape: [4], to: path)
      }
      try file.close()
    }
    #expect(
      throws: CheckpointError.damaged(
        step: 1, file: "worker-0001.h5", problem: .unexpectedTensor(path: "/parameters/hidden"))
    ) { try store.verify(step: 1) }
  }

  @Test func cyclesOfLinksEnd() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) {
      try make($0) { file in
        let parameters = H5Gopen2(file, "/parameters", 0)
        defer { H5Gclose(parameters) }
        for name in ["loop", "again"] {
          guard H5Lcreate_hard(file, "/parameters", parameters, name, 0, 0) >= 0 else { return -1 }
        }
        return H5Lcreate_hard(file, "/b", parameters, "a", 0, 0)
      }
    }
    #expect {
      try store.verify(step: 1)
    } throws: {
      if case .damaged(step: 1, _, .unreadable) = $0 as? CheckpointError { true } else { false }
    }
  }

  @Test func whatIsNotHDF5IsRefused() throws {
    let directory = try TemporaryDirectory()
    let store = try commit(directory) { try Damage.put([UInt8](repeating: 7, count: 4096), $0) }
    #expect {
      try store.load(step: 1)
    } throws: {
      if case .damaged(step: 1, file: "worker-0001.h5", .unreadable) = $0 as? CheckpointError { true } else { false }
    }
  }

  @Test func partsThatAreNoFilesAreRefused() throws {
    for make: (String) throws -> Void in [
      { try FileManager.default.createSymbolicLink(atPath: $0, withDestinationPath: "/etc/passwd") },
      { try FileManager.default.createDirectory(atPath: $0, withIntermediateDirectories: false) },
      { try #require(mkfifo($0, 0o600) == 0) },
    ] {
      let directory = try TemporaryDirectory()
      let store = CheckpointStore(directory: directory("checkpoints"))
      try Sample.write(store, step: 1)
      let part = store.directory(of: 1) + "/worker-0002.h5"
      try Damage.remove(part)
      try make(part)
      #expect(throws: CheckpointError.damaged(step: 1, file: "worker-0002.h5", problem: .notRegularFile)) {
        try store.load(step: 1)
      }
    }
  }

  /// With the file's hash out of the way, HDF5 itself meets damaged metadata: errors, never a crash.
  @Test func damagedMetadataIsAnError() throws {
    let directory = try TemporaryDirectory()
    let path = directory("file.h5")
    let writer = try HDF5File(creating: path)
    for index in 0..<12 { try writer.write([Float(index)], shape: [1], to: "/parameters/t\(index)") }
    try writer.setAttribute("step", to: Int64(1))
    try writer.close()
    let original = try Damage.bytes(path)
    var refused = 0
    for position in stride(from: 0, to: original.count, by: 5) {
      var bytes = original
      bytes[position] ^= 0xFF
      try Damage.put(bytes, path)
      do {
        let file = try HDF5File(reading: path)
        for dataset in try file.datasets() { _ = try file.floats(dataset, elementLimit: 16) }
        _ = try file.integerAttribute("step")
      } catch {
        refused += 1
      }
    }
    #expect(refused > 0)
  }

  /// Creates a float32 dataset at ``path`` whose property list `change` has altered.
  private func create(_ file: hid_t, _ shape: [hsize_t], _ change: (hid_t) -> Int32) -> Int32 {
    // The class of property lists is a macro: the list of an existing dataset serves as a template.
    let template = H5Dopen2(file, "/b", 0)
    let list = H5Dget_create_plist(template)
    let type = H5Dget_type(template)
    let space = H5Screate_simple(Int32(shape.count), shape, nil)
    defer {
      H5Dclose(template)
      H5Pclose(list)
      H5Tclose(type)
      H5Sclose(space)
    }
    guard H5Pset_alloc_time(list, H5D_ALLOC_TIME_LATE) >= 0, change(list) >= 0 else { return -1 }
    let dataset = H5Dcreate2(file, Self.path, type, space, 0, list, 0)
    guard dataset >= 0 else { return -1 }
    return H5Dclose(dataset)
  }
}
