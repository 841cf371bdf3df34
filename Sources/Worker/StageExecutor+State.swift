import Checkpoints
import ClusterModel
import Collectives
import Compute
import Foundation
import TransfusionModel
import Wire

extension StageExecutor {
  /// The name of a part of a tensor's state in a checkpoint's files.
  static func path(_ name: String, _ part: StatePart) -> String {
    switch part {
    case .parameters: "/parameters/\(name)"
    case .firstMoment: "/adamw/first_moment/\(name)"
    case .secondMoment: "/adamw/second_moment/\(name)"
    }
  }

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
    for (tensor, part, view) in stateTensors {
      progress.enter("loading", step: step)
      let path = Self.path(tensor.specification.name, part)
      let values = try reader.floats(path)
      guard values.count == view.count else {
        throw WorkerError.step(
          reason: "\(path) of checkpoint step \(step) has \(values.count) elements, the model \(view.count)")
      }
      device.upload(values, to: view)
    }
    try stateIsComplete()
  }

  /// Takes one tensor of the state.
  func take(_ bytes: UnsafeRawBufferPointer, at offset: Int, of view: Tensor) {
    let size = MemoryLayout<Float>.size
    device.upload(bytes, to: view.reshaped([view.count]).slice(at: offset / size, shape: [bytes.count / size]))
  }

  /// To be called when all of ``stateTensors`` are taken.
  func stateIsComplete() throws {
    stage.refreshComputeCopies()
    try device.wait()
  }

  /// Everything that this place needs of a state: all of the stage's parameters, the moments of what it owns and
  /// backs.
  var stateTensors: [(parameter: StageParameter, part: StatePart, view: Tensor)] {
    var tensors: [(parameter: StageParameter, part: StatePart, view: Tensor)] = []
    for parameter in stage.parameters {
      tensors.append((parameter, .parameters, flat(parameter, in: stage.values, at: parameter.offset)))
    }
    for tensor in owned + backed {
      let parameter = stage.parameters[tensor.index]
      tensors.append((parameter, .firstMoment, flat(parameter, in: firstMoments, at: tensor.offset)))
      tensors.append((parameter, .secondMoment, flat(parameter, in: secondMoments, at: tensor.offset)))
    }
    return tensors
  }

  private func flat(_ parameter: StageParameter, in tensor: Tensor, at offset: Int) -> Tensor {
    tensor.slice(at: offset, shape: [parameter.specification.count])
  }

  // MARK: What it can give

  /// What of state ``heldStep`` is here: parameters of others are as old as the last gather that was complete.
  var holding: HeldState {
    func ranges(_ indices: some Sequence<Int>) -> [Range<Int>] {
      StateTransfer.union(indices.map { stage.parameters[$0].tensorIndex }.map { $0..<$0 + 1 })
    }
    let moments = ranges((owned + backed).map(\.index))
    return HeldState(
      step: heldStep, parameters: isGathered ? ranges(stage.parameters.indices) : moments, moments: moments)
  }

  /// Copies what this worker owns: the only part of a checkpoint that training waits for.
  func snapshot(step: Step, in buffers: SnapshotBuffers) throws -> StateSnapshot {
    try timed(\.checkpoint, .snapshot, step: step) {
      let owned = Set(owned.map { stage.parameters[$0.index].tensorIndex })
      return try snapshot(in: buffers) { owned.contains($0.tensor) }
    }
  }

  /// Copies some of what this worker holds.
  func snapshot(in buffers: SnapshotBuffers, where isWanted: (StateSnapshot.Key) -> Bool) throws -> StateSnapshot {
    var layout = StateSnapshot.Layout()
    var views: [Tensor] = []
    for (parameter, part, view) in stateTensors
    where isWanted(StateSnapshot.Key(tensor: parameter.tensorIndex, part: part)) {
      layout.append(part, of: parameter.specification, tensor: parameter.tensorIndex)
      views.append(view)
    }
    let buffer = buffers.take(byteCount: layout.byteCount)
    for (entry, view) in zip(layout.entries, views) {
      try device.download(view, into: UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[entry.bytes]))
    }
    return StateSnapshot(step: heldStep, entries: layout.entries, buffer: buffer)
  }
}
