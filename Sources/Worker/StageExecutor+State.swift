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
    var bytes: [UInt8]
  }
  var step: Step
  var entries: [Entry]
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
    stage.refreshComputeCopies()
    try device.wait()
  }

  /// Takes the stage's parameters and the owned moments from a checkpoint that any plan wrote.
  func load(step: Step, from store: CheckpointStore) throws {
    let manifest = try store.manifest(step: step)
    for parameter in stage.parameters {
      let name = parameter.specification.name
      let values = stage.values.slice(at: parameter.offset, shape: [parameter.specification.count])
      try load(Self.parameterPath(name), shape: parameter.specification.shape, of: manifest, in: store, into: values)
    }
    for tensor in owned {
      let parameter = stage.parameters[tensor.index].specification
      try load(
        Self.firstMomentPath(parameter.name), shape: parameter.shape, of: manifest, in: store,
        into: firstMoments.slice(at: tensor.offset, shape: [parameter.count]))
      try load(
        Self.secondMomentPath(parameter.name), shape: parameter.shape, of: manifest, in: store,
        into: secondMoments.slice(at: tensor.offset, shape: [parameter.count]))
    }
    stage.refreshComputeCopies()
    try device.wait()
  }

  private func load(
    _ path: String, shape: [Int], of manifest: CheckpointManifest, in store: CheckpointStore, into tensor: Tensor
  ) throws {
    var bytes = [UInt8](repeating: 0, count: tensor.count * ElementType.float32.sizeBytes)
    try bytes.withUnsafeMutableBytes { buffer in
      try store.readTensor(manifest, path: path, shape: shape, into: buffer)
    }
    device.upload(bytes, to: tensor)
  }

  /// Copies what this worker owns: the only part of a checkpoint that training waits for.
  func snapshot(step: Step) throws -> StateSnapshot {
    try timed(\.checkpoint) {
      var entries: [StateSnapshot.Entry] = []
      for tensor in owned {
        let parameter = stage.parameters[tensor.index]
        let specification = parameter.specification
        let count = specification.count
        let parts = [
          (Self.parameterPath(specification.name), stage.values.slice(at: parameter.offset, shape: [count])),
          (Self.firstMomentPath(specification.name), firstMoments.slice(at: tensor.offset, shape: [count])),
          (Self.secondMomentPath(specification.name), secondMoments.slice(at: tensor.offset, shape: [count])),
        ]
        for (path, part) in parts {
          var failure: DeviceError?
          let bytes = [UInt8](unsafeUninitializedCapacity: count * ElementType.float32.sizeBytes) { buffer, size in
            do throws(DeviceError) {
              try device.download(part, into: UnsafeMutableRawBufferPointer(buffer))
              size = buffer.count
            } catch {
              failure = error
              size = 0
            }
          }
          if let failure { throw failure }
          entries.append(StateSnapshot.Entry(path: path, shape: specification.shape, bytes: bytes))
        }
      }
      return StateSnapshot(step: step, entries: entries)
    }
  }
}
