import Compute

extension Stage {
  /// The residual stream [T, D] (host, row-major) entering a unit of this stage, after `forward`: unit 1 is the
  /// first layer, unit layers + 1 the output side (before the final norm).
  public func hiddenState(slot index: Int, entering unit: Int) throws -> [Float] {
    let layer = unit - 1 - extent.layers.lowerBound
    precondition((0...layers.count).contains(layer), "unit \(unit) is entered on another stage")
    return try device.floats(hidden(slots[index], layer))
  }

  /// Logits [M, V] at the target positions, after `forward`; last stage. Allocates, so not for training.
  public func logits(slot index: Int) throws -> [Float] {
    guard let output else { preconditionFailure("logits are made on the last stage") }
    let slot = slots[index]
    let logits = try device.allocate(.float32, [slot.targets, configuration.vocabulary])
    output.forward(hidden(slot, layers.count), slot, context)
    output.logits(slot, into: logits, context)
    return try device.floats(logits)
  }

  /// Predicted noise [I*P, K], after `forward`; last stage.
  public func predictedNoise(slot index: Int) throws -> [Float] {
    guard let output else { preconditionFailure("noise is predicted on the last stage") }
    let slot = slots[index]
    output.forward(hidden(slot, layers.count), slot, context)
    return try device.floats(output.prediction(slot, context))
  }
}
