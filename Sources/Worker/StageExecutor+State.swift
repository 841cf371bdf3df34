import Checkpoints
import ClusterModel
import Compute
import Foundation
import TransfusionModel

/// A copy of a worker's share of the state, on the host, that a background thread writes while training
/// goes on.
struct StateSnapshot: Sendable {
  struct Entry: Sendable {
    var path: String
    var shape: [Int]
    /// Where its float32 values lie in the buffer.
    var bytes: Range<Int>
  }
  var step: Step
  var entries: [Entry]
  var buffer: SnapshotBuffer
}

extension StageExecutor {
  static func parameterPath(_ name: String) -> String { "/parameters/\(name)" }
  static func firstMomentPath(_ name: String) -> String { "/adamw/first_moment/\(name)" }
  static func secondMomentPath(_ name: String) -> String { "/adamw/second_moment/\(name)" }

  /// State 0: parameters from the seed, moments zero.
  func initialise() throws {
    stage.initialise(seed: configuration.run.seed)
    device.fill(firstMoments, with: 0)
    device.fill(secondMoments, with: 0)
    try device.wait()
  }

  /// Takes the stage's parameters and the owned moments from a checkpoint that any plan wrote.
  ///
  /// The coordinator has verified the files; each tensor is checked against its hash again as it is read.
  func load(step: Step, from store: CheckpointStore) throws {
    let reader = CheckpointReader(store: store, manifest: try store.manifest(of: step))
    for parameter in stage.parameters {
      try load(Self.parameterPath(parameter.specification.name), of: reader, into: parameter.view(of: stage.values))
    }
    for tensor in owned {
      let parameter = stage.parameters[tensor.index].specification
      try load(
        Self.firstMomentPath(parameter.name), of: reader,
        into: firstMoments.slice(at: tensor.offset, shape: Extents(parameter.shape)))
      try load(
        Self.secondMomentPath(parameter.name), of: reader,
        into: secondMoments.slice(at: tensor.offset, shape: Extents(parameter.shape)))
    }
    stage.refreshComputeCopies()
    try device.wait()
  }

  private func load(_ path: String, of reader: CheckpointReader, into tensor: Tensor) throws {
    progress.enter("loading", step: reader.manifest.step)
    let values = try reader.floats(path)
    guard values.count == tensor.count else {
      throw WorkerError.step(
        reason:
          "\(path) of checkpoint step \(reader.manifest.step) has \(values.count) elements, the model \(tensor.count)")
    }
    device.upload(values, to: tensor)
  }

  /// Copies what this worker owns: the only part of a checkpoint that training waits for.
  func snapshot(step: Step) throws -> StateSnapshot {
    try timed(\.checkpoint, .snapshot, step: step) {
      let size = MemoryLayout<Float>.size
      let elements = owned.reduce(0) { $0 + count(of: $1) }
      let buffer = snapshots.take(byteCount: 3 * elements * size)
      func copy(_ tensor: Tensor, at element: Int) throws {
        let part = buffer.bytes[element * size..<(element + tensor.count) * size]
        try device.download(tensor, into: UnsafeMutableRawBufferPointer(rebasing: part))
      }
      var entries: [StateSnapshot.Entry] = []
      for tensor in owned {
        let parameter = stage.parameters[tensor.index]
        let specification = parameter.specification
        let count = specification.count
        try copy(stage.values.slice(at: parameter.offset, shape: [count]), at: tensor.offset)
        let paths = [Self.parameterPath, Self.firstMomentPath, Self.secondMomentPath]
        for (part, path) in paths.enumerated() {
          let start = (part * elements + tensor.offset) * size
          entries.append(
            StateSnapshot.Entry(
              path: path(specification.name), shape: specification.shape, bytes: start..<start + count * size))
        }
      }
      if elements > 0 {
        try copy(firstMoments, at: elements)
        try copy(secondMoments, at: 2 * elements)
      }
      return StateSnapshot(step: step, entries: entries, buffer: buffer)
    }
  }
}
