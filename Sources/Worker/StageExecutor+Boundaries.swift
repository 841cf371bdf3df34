import ClusterModel
import Compute

extension StageExecutor {
  private func key(_ kind: FrameKey.Kind, _ step: Step, _ m: Int, stage: Int) -> FrameKey {
    FrameKey(kind: kind, step: step, microbatch: UInt32(m), stage: UInt32(stage))
  }

  /// Copies a tensor to where it travels from, and no more: the neighbour is not waited for.
  func send(_ kind: FrameKey.Kind, step: Step, _ m: Int, to stage: Int, _ tensor: Tensor) throws {
    try timed(\.receive, .send, step: step, microbatch: index(m, of: kind)) {
      try link.send(
        key(kind, step, m, stage: place.stage), to: [plan.places[place.replica][stage]],
        byteCount: tensor.count * tensor.type.sizeBytes
      ) { bytes in try device.download(tensor, into: bytes) }
    }
  }

  func receive(_ kind: FrameKey.Kind, step: Step, _ m: Int, from stage: Int, into tensor: Tensor) throws {
    let size = tensor.type.sizeBytes
    let flat = tensor.reshaped([tensor.count])
    try timed(\.receive, .receive, step: step, microbatch: index(m, of: kind)) {
      try link.withReceived(
        key(kind, step, m, stage: stage), from: plan.places[place.replica][stage], byteCount: flat.count * size
      ) { bytes, offset in
        device.upload(bytes, to: flat.slice(at: offset / size, shape: [bytes.count / size]))
      }
    }
  }

  /// The index that a microbatch has in the trace: in the step, or among the validation microbatches.
  private func index(_ m: Int, of kind: FrameKey.Kind) -> Int {
    (kind == .validationActivation ? validationMicrobatches : microbatches).lowerBound + m
  }
}
