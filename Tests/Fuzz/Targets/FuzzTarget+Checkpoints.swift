import Checkpoints
import ClusterModel
import Digests
import Foundation
import HDF5
import ModelVerification

/// Files of a checkpoint, and other HDF5 files that are read.
extension FuzzTarget {
  static let checkpoints = [manifest, checkpoint, hdf5, reference]

  private static let tensors: [(path: String, shape: [Int])] = [
    ("/parameters/model.norm.weight", [4]), ("/parameters/model.embed_tokens.weight", [3, 2]),
    ("/adamw/first_moment/model.norm.weight", [4]),
  ]
  private static let context = CheckpointContext(
    run: RunID("00112233445566778899aabbccddeeff"), generation: Generation(3), configuration: "model:\n  layers: 1\n",
    data: DataPosition(nextSample: 640, fingerprint: "data"), device: "x86-64 avx512", precision: "float32")

  private static func read(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: path))) }

  /// A sound checkpoint of step 1 in a folder; its one part and its manifest.
  private static func sound(_ folder: String) throws -> (store: CheckpointStore, part: String, manifest: [UInt8]) {
    let store = CheckpointStore(directory: folder + "/checkpoints")
    let sources = tensors.map { tensor in
      TensorSource(
        path: tensor.path, shape: tensor.shape,
        values: (0..<tensor.shape.reduce(1, *)).map { Float($0) + 0.5 })
    }
    let part = try store.writePart(step: 1, file: "worker-0001.h5", tensors: sources)
    try store.commit(step: 1, parts: [part], context: context)
    let directory = store.directory(of: 1)
    return (store, directory + "/worker-0001.h5", try read(directory + "/manifest.json"))
  }

  // MARK: Manifest

  private static let hashKey = Array("\"manifestSHA256\" : \"".utf8)

  /// The manifest with its own hash made right, where it has the place for it.
  private static func signed(_ bytes: [UInt8]) -> [UInt8]? {
    guard let key = bytes.firstRange(of: hashKey), key.upperBound + 64 <= bytes.count else { return nil }
    var bytes = bytes
    let place = key.upperBound..<key.upperBound + 64
    bytes.replaceSubrange(place, with: repeatElement(UInt8(ascii: "0"), count: 64))
    bytes.replaceSubrange(place, with: Array(SHA256.digest(of: bytes).hexadecimal.utf8))
    return bytes
  }

  private static let manifest = FuzzTarget(
    "manifest", "CheckpointManifest(bytes:), manifest.json with its own hash made right", shape: .text,
    dictionary: ["\"manifestSHA256\" : \"", "\"files\"", "\"shape\"", "worker-0001.h5", "/parameters/", "null", "../"],
    heapLimitBytes: 64 << 20, share: 14,
    examples: { folder in [("manifest", try sound(folder).manifest)] }
  ) { _ in
    return { input in
      _ = try outcome { _ = try CheckpointManifest(bytes: input, step: 1) }
      guard let input = signed(input) else { return try outcome { throw CheckpointProblem.missing } }
      return try outcome {
        let manifest = try CheckpointManifest(bytes: input, step: 1)
        _ = manifest.sizeBytes
        let written = try manifest.encoded()
        do {
          try promise(
            try CheckpointManifest(bytes: written, step: 1).tensors == manifest.tensors,
            "a manifest that was read is written otherwise")
        } catch let error as CheckpointProblem {
          throw BrokenPromise("a manifest that was read and written is refused: \(error)")
        }
      }
    }
  }

  // MARK: HDF5

  private static let library = "the HDF5 library crashes on damaged files (docs/fuzzing.md)"

  /// The manifest is right about every byte of the file: what is left to refuse it is what the file says.
  private static let checkpoint = FuzzTarget(
    "checkpoint", "CheckpointStore.load and verify, CheckpointReader, on a part of any bytes", shape: .bytes,
    dictionary: HDF5Seal.signatures, sizeLimit: 1 << 16, heapLimitBytes: 64 << 20, share: 12,
    examples: { folder in
      // Groups of more than eight links keep them in a heap under a B-tree, of two levels from 46 on.
      let store = CheckpointStore(directory: folder + "/large")
      let many = (0..<100).map { TensorSource(path: "/parameters/layers.\($0).weight", shape: [1], values: [1]) }
      let sources = tensors.map { tensor in
        TensorSource(
          path: tensor.path, shape: tensor.shape, values: Array(repeating: 2, count: tensor.shape.reduce(1, *)))
      }
      _ = try store.writePart(step: 1, file: "worker-0001.h5", tensors: sources + many)
      _ = try store.writePart(step: 2, file: "worker-0001.h5", tensors: sources + many.prefix(12))
      return [
        ("part", try read(try sound(folder).part)),
        ("two-levels", try read(store.directory(of: 1) + "/worker-0001.h5")),
        ("heap", try read(store.directory(of: 2) + "/worker-0001.h5")),
      ]
    }
  ) { folder in
    let (store, path, _) = try sound(folder)
    let file = try InputFile(path)
    let manifestFile = try InputFile(store.directory(of: 1) + "/manifest.json")
    let zero = SHA256.digest(of: [UInt8](repeating: 0, count: 4)).hexadecimal
    return { input in
      try file.put(input)
      let part = PartRecord(
        step: 1, file: "worker-0001.h5", sizeBytes: UInt64(input.count), sha256: SHA256.digest(of: input).hexadecimal,
        tensors: tensors.map { PartRecord.Tensor(path: $0.path, shape: $0.shape, sha256: zero) })
      try manifestFile.put(try CheckpointManifest(step: 1, parts: [part], context: context).encoded())
      let loaded = try outcome { _ = try store.load(step: 1) }
      guard case .accepted = loaded else { return loaded }
      let verified = try outcome { _ = try store.verify(step: 1) }
      let reader = CheckpointReader(store: store, manifest: try store.manifest(of: 1))
      for tensor in tensors { _ = try outcome { _ = try reader.floats(tensor.path) } }
      // The hashes of its tensors are not right on purpose; all else of it was accepted.
      if case .refused(let error) = verified, case .damaged(_, _, .wrongTensorHash) = error as? CheckpointError {
        return .accepted
      }
      return verified
    }
  }

  /// Everything that can be asked of a file.
  private static let hdf5 = FuzzTarget(
    "hdf5", "HDF5File: listing, datasets of every layout, attributes", shape: .bytes,
    dictionary: HDF5Seal.signatures, sizeLimit: 1 << 14, heapLimitBytes: 64 << 20, share: 3, onlyNamed: library,
    examples: { folder in
      let path = folder + "/made.h5"
      let file = try HDF5File(creating: path)
      for index in 0..<10 { try file.write([Float(index)], shape: [1], to: "/parameters/t\(index)") }
      try file.write([Int32](0..<6), shape: [2, 3], to: "/input/tokens")
      try file.setAttribute("step", to: Int64(1))
      try file.setAttribute("text", to: "words")
      try file.setAttribute("rate", to: 0.5)
      try file.close()
      return [("made", try read(path))]
    }
  ) { folder in
    let input = try InputFile(folder + "/input.h5")
    return { bytes in
      var bytes = bytes
      HDF5Seal.seal(&bytes)
      try input.put(bytes)
      return try outcome {
        let file = try HDF5File(reading: input.path)
        for name in ["step", "rate"] {
          _ = try outcome { _ = try file.integerAttribute(name) }
          _ = try outcome { _ = try file.doubleAttribute(name) }
        }
        _ = try outcome { _ = try file.stringAttribute("text") }
        for path in try file.datasets().prefix(32) {
          _ = try outcome { _ = try file.dataset(path) }
          _ = try outcome { _ = try file.floats(path) }
        }
      }
    }
  }

  private static let reference = FuzzTarget(
    "reference", "ReferenceFile, of `transfusion verify model`", shape: .bytes, dictionary: HDF5Seal.signatures,
    sizeLimit: 1 << 14, heapLimitBytes: 64 << 20, share: 3, onlyNamed: library,
    examples: { folder in
      let path = folder + "/reference.h5"
      let file = try HDF5File(creating: path)
      for (name, value) in [
        ("layers", 1), ("hidden", 4), ("heads", 2), ("kv_heads", 1), ("intermediate", 4), ("vocab", 8), ("channels", 1),
        ("latent_size", 2), ("patch", 1), ("time_channels", 2), ("batch", 1), ("length", 8), ("images", 1),
      ] as [(String, Int64)] { try file.setAttribute(name, to: value) }
      for (name, value) in [
        ("rope_theta", 10000), ("rms_norm_eps", 1e-5), ("diffusion_weight", 5), ("learning_rate", 1e-3),
        ("clip_norm", 1),
      ] as [(String, Double)] { try file.setAttribute(name, to: value) }
      try file.write([1, 2, 3, 0, 0, 0, 0, 4] as [Int32], shape: [1, 8], to: "/input/tokens")
      try file.write([0, 0, 0, 0, 0, 0, 0, 0] as [Int32], shape: [1, 8], to: "/input/document")
      try file.write([-1, -1, -1, 0, 0, 0, 0, -1] as [Int32], shape: [1, 8], to: "/input/image")
      try file.write([Float](repeating: 0.5, count: 4), shape: [1, 1, 2, 2], to: "/input/latents")
      try file.write([Float](repeating: 0.5, count: 4), shape: [1, 1, 2, 2], to: "/input/noise")
      try file.write([500] as [Int32], shape: [1], to: "/input/timestep")
      try file.close()
      _ = try ReferenceFile(path)
      return [("reference", try read(path))]
    }
  ) { folder in
    let input = try InputFile(folder + "/input.h5")
    return { bytes in
      var bytes = bytes
      HDF5Seal.seal(&bytes)
      try input.put(bytes)
      return try outcome { _ = try ReferenceFile(input.path) }
    }
  }
}
