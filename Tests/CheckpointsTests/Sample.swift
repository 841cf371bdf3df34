import Checkpoints
import ClusterModel
import Foundation

/// A small state with every kind of tensor a checkpoint holds, and how tests write it.
enum Sample {
  static let names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
  static let shapes = [[17, 6], [8, 12], [12]]
  static let groups = ["/parameters/", "/adamw/first_moment/", "/adamw/second_moment/"]

  static let expecting = Dictionary(
    uniqueKeysWithValues: groups.flatMap { group in zip(names, shapes).map { (group + $0, $1) } })

  /// A tensor's values: a function of step and path.
  static func values(_ path: String, step: Step) -> [Float] {
    let count = (expecting[path] ?? []).reduce(1, *)
    let seed = path.utf8.reduce(UInt32(truncatingIfNeeded: step) &+ 1) { $0 &* 31 &+ UInt32($1) }
    return (0..<count).map { Float(Int32(bitPattern: seed &* 2_654_435_761 &+ UInt32($0) &* 40_503)) * 1e-9 }
  }
  static func source(_ path: String, step: Step) -> TensorSource {
    TensorSource(path: path, shape: expecting[path] ?? [], values: values(path, step: step))
  }

  static let context = CheckpointContext(
    run: RunID("00112233445566778899aabbccddeeff"), generation: Generation(3),
    configuration: "model:\n  layers: 1 # \"quoted\" /slashed/\n",
    data: DataPosition(nextSample: 640, fingerprint: "data-fingerprint"), device: "x86-64 avx512",
    precision: "float32")

  /// Writes the parts of a step, the tensors dealt to `files` in turn.
  static func writeParts(_ store: CheckpointStore, step: Step, files: Int = 2) throws -> [PartRecord] {
    let paths = expecting.keys.sorted()
    return try (0..<files).map { file in
      let mine = paths.enumerated().filter { $0.offset % files == file }.map(\.element)
      return try store.writePart(
        step: step, file: "worker-000\(file + 1).h5", tensors: mine.map { source($0, step: step) })
    }
  }

  @discardableResult
  static func write(_ store: CheckpointStore, step: Step, files: Int = 2) throws -> CheckpointManifest {
    try store.commit(step: step, parts: try writeParts(store, step: step, files: files), context: context)
  }

  /// Whether a checkpoint holds exactly the values of its step.
  static func isWhole(_ store: CheckpointStore, _ manifest: CheckpointManifest) throws -> Bool {
    let reader = CheckpointReader(store: store, manifest: manifest)
    return try expecting.keys.allSatisfy { try reader.floats($0) == values($0, step: manifest.step) }
  }
}

/// Changes to files that only tests make.
enum Damage {
  static func bytes(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: path))) }
  static func put(_ bytes: [UInt8], _ path: String) throws { try Data(bytes).write(to: URL(filePath: path)) }
  static func remove(_ path: String) throws { try FileManager.default.removeItem(atPath: path) }
  static func names(_ directory: String) throws -> [String] {
    try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
  }
}
