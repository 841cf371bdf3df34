import TransfusionModel

/// The matrix products of a training step: the part of its work that no implementation can leave out.
///
/// A multiplication and an addition are two operations. Counted are linear layers (forward once, backward
/// twice), the token head at the target positions only, and attention over each query's key interval (forward 2
/// products, backward 5: scores again, and the gradients by weights, values, queries and keys).
public struct MatrixWork: Sendable, Hashable {
  public var layers: Double
  public var attention: Double
  public var head: Double
  /// Patch projections and timestep embedding.
  public var codec: Double
  public var total: Double { layers + attention + head + codec }

  public init(_ model: ModelConfiguration, _ batch: Microbatch) {
    let (d, f) = (Double(model.width), Double(model.feedForwardWidth))
    let packed = Double((model.heads + 2 * model.keyValueHeads) * model.headSize)
    let perPosition = d * packed + d * d + 3 * d * f
    layers = 3 * 2 * Double(batch.tokens.count) * perPosition * Double(model.layers)
    let pairs = zip(batch.keyStart, batch.keyEnd).reduce(0.0) { $0 + Double($1.1 - $1.0) }
    attention = (2 + 5) * 2 * pairs * d * Double(model.layers)
    head = 3 * 2 * Double(batch.targetTokens.count) * d * Double(model.vocabulary)
    let patches = Double(batch.patchPositions.count)
    // The first projection has no gradient by its input: the latents are not trained.
    codec =
      (2 + 3) * 2 * patches * d * Double(model.patchElements)
      + 2 * Double(batch.images) * d * (2 * Double(model.timeChannels) + 3 * d)
  }
}
