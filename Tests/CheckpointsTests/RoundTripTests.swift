import Checkpoints
import ClusterModel
import Digests
import Foundation
import HDF5
import Synchronization
import Testing

@Suite struct RoundTripTests {
  @Test func whatIsCommittedIsLoaded() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let manifest = try Sample.write(store, step: 100)
    #expect(Set(try Damage.names(directory("checkpoints"))) == ["step-000000100"])
    #expect(
      try Damage.names(store.directory(of: 100)) == ["manifest.json", "worker-0001.h5", "worker-0002.h5"])
    #expect(manifest.step == 100 && manifest.generation == 3)
    #expect(manifest.configuration == Sample.context.configuration)
    #expect(manifest.data == Sample.context.data)
    #expect(manifest.device == Sample.context.device && manifest.precision == "float32")
    #expect(manifest.run == Sample.context.run.text)

    let loaded = try store.newestValid(expecting: Sample.expecting)
    #expect(loaded.manifest == manifest)
    #expect(loaded.rejected.isEmpty)
    #expect(try Sample.isWhole(store, loaded.manifest))
    let verified = try store.verify(step: 100, expecting: Sample.expecting)
    #expect(verified.digest == manifest.digest)
    #expect(try store.digest(step: 100) == manifest.digest)
  }

  @Test func recordedHashesAreThoseOfTheFiles() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let manifest = try Sample.write(store, step: 7)
    for (name, file) in manifest.files {
      let bytes = try Damage.bytes(store.directory(of: 7) + "/" + name)
      #expect(SHA256.digest(of: bytes).hexadecimal == file.sha256)
      #expect(UInt64(bytes.count) == file.sizeBytes)
    }
    for (path, tensor) in manifest.tensors {
      let hash = Sample.values(path, step: 7).withUnsafeBytes { SHA256.digest(of: $0) }
      #expect(hash.hexadecimal == tensor.sha256)
    }
  }

  @Test func digestDependsOnTensorsAndStepAlone() throws {
    let directory = try TemporaryDirectory()
    var digests: Set<String> = []
    for files in 1...3 {
      let store = CheckpointStore(directory: directory("partition-\(files)"))
      try Sample.write(store, step: 50, files: files)
      digests.insert(try store.digest(step: 50))
    }
    #expect(digests.count == 1)
    let store = CheckpointStore(directory: directory("other"))
    try Sample.write(store, step: 51)
    #expect(try !digests.contains(store.digest(step: 51)))
  }

  /// The digest's definition, spelled out by hand: changing it would orphan every recorded digest.
  @Test func digestIsAsDocumented() {
    let digest = StateDigest.digest(step: 3, tensors: [("/b", [], "bb"), ("/a", [2, 3], "aa")])
    #expect(digest == SHA256.digest(of: "transfusion-state-v1\n3\n/a 2,3 aa\n/b  bb\n"))
  }

  @Test func sameStateMakesTheSameFiles() throws {
    let directory = try TemporaryDirectory()
    let first = try Sample.write(CheckpointStore(directory: directory("a")), step: 9)
    let second = try Sample.write(CheckpointStore(directory: directory("b")), step: 9)
    #expect(first == second)
  }

  @Test func sourcesInSlicesAndInMemoryAgree() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    // Larger than two slices, and not a multiple of one.
    let count = CheckpointStore.sliceBytes / 2 + 4321
    let values = (0..<count).map { Float($0) }
    let shape = [count]
    let record = try values.withUnsafeBytes { bytes in
      let memory = TensorSource(path: "/parameters/memory", shape: shape, bytes: bytes)
      let filled = TensorSource(path: "/parameters/filled", shape: shape) { range, buffer in
        buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: bytes[range]))
      }
      let empty = TensorSource(path: "/parameters/empty", shape: [0, 3], values: [])
      let scalar = TensorSource(path: "/parameters/scalar", shape: [], values: [2.5])
      return try store.writePart(step: 1, file: "worker-0001.h5", tensors: [filled, empty, memory, scalar])
    }
    let manifest = try store.commit(step: 1, parts: [record], context: Sample.context)
    #expect(manifest.tensors["/parameters/memory"]?.sha256 == manifest.tensors["/parameters/filled"]?.sha256)
    var progress: [CheckpointProgress] = []
    _ = try store.verify(step: 1) { progress.append($0) }
    #expect(progress.last?.doneBytes == progress.last?.totalBytes)
    let reader = CheckpointReader(store: store, manifest: manifest)
    #expect(try reader.floats("/parameters/filled") == values)
    #expect(try reader.floats("/parameters/empty") == [])
    #expect(try reader.floats("/parameters/scalar") == [2.5])
    var offsets: [Int] = []
    var bytes: [UInt8] = []
    try reader.forEachSlice("/parameters/memory") { offset, slice in
      offsets.append(offset)
      bytes += slice
    }
    #expect(offsets == Array(stride(from: 0, to: count * 4, by: CheckpointStore.sliceBytes)))
    #expect(values.withUnsafeBytes { Array($0) } == bytes)
    // HDF5's own reading agrees with the bytes that went past it.
    let file = try HDF5File(reading: store.directory(of: 1) + "/worker-0001.h5")
    #expect(try file.floats("/parameters/memory") == values)
  }

  /// Workers of one process or of many write their parts at the same time; HDF5 is entered one at a time.
  @Test func partsAreWrittenSideBySide() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let paths = Sample.expecting.keys.sorted()
    let records = Mutex<[PartRecord]>([])
    DispatchQueue.concurrentPerform(iterations: paths.count) { index in
      let record = try? store.writePart(
        step: 4, file: "worker-000\(index).h5", tensors: [Sample.source(paths[index], step: 4)])
      if let record { records.withLock { $0.append(record) } }
    }
    let manifest = try store.commit(step: 4, parts: records.withLock { $0 }, context: Sample.context)
    #expect(try store.verify(step: 4, expecting: Sample.expecting).digest == manifest.digest)
    let other = try Sample.write(CheckpointStore(directory: directory("other")), step: 4)
    #expect(other.digest == manifest.digest)
  }

  @Test func committedStepsAreImmutable() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 5)
    #expect(throws: CheckpointError.alreadyCommitted(step: 5)) { try Sample.writeParts(store, step: 5) }
    #expect(throws: CheckpointError.alreadyCommitted(step: 5)) {
      try store.commit(step: 5, parts: [], context: Sample.context)
    }
    #expect(try store.isCommitted(5))
    #expect(try !store.isCommitted(6))
  }

  @Test func filesOfAnotherAttemptAreRemovedAtCommit() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    _ = try Sample.writeParts(store, step: 5, files: 3)
    try Damage.put([1, 2, 3], store.directory(of: 5) + "/worker-0009.h5.partial")
    try Sample.write(store, step: 5, files: 2)
    #expect(try Damage.names(store.directory(of: 5)) == ["manifest.json", "worker-0001.h5", "worker-0002.h5"])
    _ = try store.verify(step: 5)
  }

  @Test func partsThatContradictEachOtherAreNotCommitted() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let parts = try Sample.writeParts(store, step: 5)
    func expectInvalid(_ parts: [PartRecord]) {
      #expect {
        try store.commit(step: 5, parts: parts, context: Sample.context)
      } throws: {
        if case .invalidPart(step: 5, _) = $0 as? CheckpointError { true } else { false }
      }
    }
    expectInvalid([])
    expectInvalid([parts[0], parts[0]])
    var other = parts[1]
    other.step = 6
    expectInvalid([parts[0], other])
    other = parts[1]
    other.tensors.append(parts[0].tensors[0])
    expectInvalid([parts[0], other])
    other = parts[1]
    other.file = "../worker-0002.h5"
    expectInvalid([parts[0], other])
    other = parts[1]
    other.file = "worker-0003.h5"
    #expect(throws: CheckpointError.damaged(step: 5, file: "worker-0003.h5", problem: .missing)) {
      try store.commit(step: 5, parts: [parts[0], other], context: Sample.context)
    }
    #expect(try !store.isCommitted(5))
  }

  @Test(arguments: ["../up.h5", "a/b.h5", ".hidden.h5", "manifest.json", "", "worker 1.h5", "worker-0001.h5.partial"])
  func partNamesArePlain(name: String) throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    #expect(throws: CheckpointError.self) {
      try store.writePart(step: 1, file: name, tensors: [TensorSource(path: "/a", shape: [1], values: [1])])
    }
    #expect(!FileManager.default.fileExists(atPath: directory("checkpoints")))
  }

  @Test func sourcesThatDoNotFitTheirShapeAreRefused() throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let bad = [
      [TensorSource(path: "/a", shape: [2], values: [1])],
      [TensorSource(path: "/a", shape: [-1], values: [])],
      [TensorSource(path: "/a", shape: [.max, .max], values: [])],
      [TensorSource(path: "/a", shape: [1], values: [1]), TensorSource(path: "/a", shape: [1], values: [1])],
      [TensorSource(path: "/a/../b", shape: [1], values: [1])],
      [TensorSource(path: "a", shape: [1], values: [1])],
    ]
    for tensors in bad {
      #expect(throws: CheckpointError.self) {
        try store.writePart(step: 1, file: "worker-0001.h5", tensors: tensors)
      }
    }
  }

  @Test func aSourceThatFailsLeavesNothing() throws {
    struct Gone: Error {}
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    let source = TensorSource(path: "/a", shape: [4]) { _, _ in throw Gone() }
    #expect(throws: CheckpointError.source(path: "/a", reason: "Gone()")) {
      try store.writePart(step: 1, file: "worker-0001.h5", tensors: [source])
    }
    #expect(try Damage.names(store.directory(of: 1)) == [])
  }
}
