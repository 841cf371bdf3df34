import Checkpoints
import ClusterModel
import Foundation
import HDF5
import Testing

/// A file system of one mebibyte; needs the right to mount.
private final class SmallDisk {
  let path: String
  private let directory: TemporaryDirectory

  static let isPermitted: Bool = {
    guard getuid() == 0, let disk = try? SmallDisk() else { return false }
    return FileManager.default.fileExists(atPath: disk.path)
  }()

  init() throws {
    directory = try TemporaryDirectory()
    path = directory("disk")
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    let mount = try Tool.run("/bin/mount", ["-t", "tmpfs", "-o", "size=1m", "none", path])
    guard mount.status == 0 else { throw CocoaError(.fileWriteNoPermission) }
  }
  deinit { _ = try? Tool.run("/bin/umount", ["-l", path]) }

  /// Takes all the space there is.
  static func fill(_ path: String) {
    _ = FileManager.default.createFile(atPath: path + "/ballast", contents: nil)
    guard let file = FileHandle(forWritingAtPath: path + "/ballast") else { return }
    let block = Data(repeating: 1, count: 4096)
    while (try? file.write(contentsOf: block)) != nil {}
    try? file.close()
  }
  func fill() { Self.fill(path) }
  func empty() throws { try Damage.remove(path + "/ballast") }
}

@Suite(.serialized, .enabled(if: SmallDisk.isPermitted, "mounting a small tmpfs is not permitted here: run as root"))
struct DiskFullTests {
  private func expectFull(_ body: () throws -> Void) {
    #expect {
      try body()
    } throws: {
      if case .diskFull = $0 as? CheckpointError { true } else { false }
    }
  }

  @Test func aStateThatDoesNotFitLeavesTheOneBefore() throws {
    let disk = try SmallDisk()
    let store = CheckpointStore(directory: disk.path + "/checkpoints")
    try Sample.write(store, step: 10)
    let large = TensorSource(path: "/parameters/large", shape: [1 << 19]) { _, buffer in
      buffer.initializeMemory(as: UInt8.self, repeating: 1)
    }
    expectFull { _ = try store.writePart(step: 20, file: "worker-0001.h5", tensors: [large]) }
    #expect(try Damage.names(store.directory(of: 20)) == [])
    let found = try store.newestValid(expecting: Sample.expecting)
    #expect(try Sample.isWhole(store, found.manifest))
  }

  /// Another process takes the space between the stages of writing.
  @Test(arguments: [CheckpointStage.directoryMade, .skeletonWritten])
  func spaceThatGoesWhileAPartIsWritten(stage: CheckpointStage) throws {
    let disk = try SmallDisk()
    let path = disk.path
    var store = CheckpointStore(directory: path + "/checkpoints")
    try Sample.write(store, step: 10)
    store.atStage = { reached throws(CheckpointError) in if reached == stage { SmallDisk.fill(path) } }
    let tensor = TensorSource(path: "/parameters/a", shape: [30_000], values: [Float](repeating: 1, count: 30_000))
    expectFull { _ = try store.writePart(step: 20, file: "worker-0001.h5", tensors: [tensor]) }
    #expect(try Damage.names(store.directory(of: 20)) == [])
    #expect(try store.newestValid(expecting: Sample.expecting).manifest.step == 10)
    store.atStage = nil
    try disk.empty()
    try Sample.write(store, step: 20)
    #expect(try store.newestValid(expecting: Sample.expecting).manifest.step == 20)
  }

  @Test func aManifestThatDoesNotFitCommitsNothing() throws {
    let disk = try SmallDisk()
    let path = disk.path
    let store = CheckpointStore(directory: path + "/checkpoints")
    try Sample.write(store, step: 10)
    let parts = try Sample.writeParts(store, step: 20)
    SmallDisk.fill(path)
    expectFull { try store.commit(step: 20, parts: parts, context: Sample.context) }
    #expect(try !store.isCommitted(20))
    #expect(try store.newestValid(expecting: Sample.expecting).manifest.step == 10)
    try disk.empty()
    try store.commit(step: 20, parts: parts, context: Sample.context)
    _ = try store.verify(step: 20, expecting: Sample.expecting)
  }

  @Test func aFullDiskFromTheStart() throws {
    let disk = try SmallDisk()
    let store = CheckpointStore(directory: disk.path + "/checkpoints")
    disk.fill()
    expectFull { try Sample.write(store, step: 10) }
  }

  /// HDF5 itself meets the full disk: an error at the latest when closing, and the library goes on working.
  @Test func theLibrarySurvivesAFullDisk() throws {
    let disk = try SmallDisk()
    disk.fill()
    #expect(throws: HDF5Error.self) {
      let file = try HDF5File(creating: disk.path + "/file.h5")
      for index in 0..<64 { try file.write([Float](repeating: 1, count: 256), shape: [256], to: "/group/t\(index)") }
      try file.close()
    }
    try disk.empty()
    let directory = try TemporaryDirectory()
    try Sample.write(CheckpointStore(directory: directory("checkpoints")), step: 1)
    try Sample.write(CheckpointStore(directory: disk.path + "/checkpoints"), step: 1)
  }
}
