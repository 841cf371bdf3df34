/// What makes a microbatch unfit for a model.
public enum MicrobatchError: Error, Equatable, CustomStringConvertible {
  case exceedsLimits(name: String, value: Int, limit: Int)
  case wrongCount(name: String, count: Int, expected: Int)
  case outOfRange(name: String, index: Int, value: Int, allowed: Range<Int>)
  case notAscending(name: String, index: Int)
  case positionTaken(name: String, index: Int, position: Int)

  public var description: String {
    switch self {
    case .exceedsLimits(let name, let value, let limit):
      "a microbatch has \(name) \(value), the buffers were sized for \(limit)"
    case .wrongCount(let name, let count, let expected):
      "a microbatch has \(count) elements of \(name) where \(expected) belong"
    case .outOfRange(let name, let index, let value, let allowed):
      "\(name)[\(index)] of a microbatch is \(value), outside \(allowed)"
    case .notAscending(let name, let index):
      "\(name)[\(index)] of a microbatch is not greater than the one before it"
    case .positionTaken(let name, let index, let position):
      "\(name)[\(index)] of a microbatch is position \(position), which carries a loss already"
    }
  }
}

extension Microbatch {
  /// Refuses what a stage of this model and these buffers could not run.
  public func validate(for model: ModelConfiguration, limits: MicrobatchLimits) throws(MicrobatchError) {
    let positions = rows * length
    let patches = images * model.patchesPerImage
    if rows > limits.rows { throw .exceedsLimits(name: "rows", value: rows, limit: limits.rows) }
    if length != limits.length { throw .exceedsLimits(name: "length", value: length, limit: limits.length) }
    if images > limits.images { throw .exceedsLimits(name: "images", value: images, limit: limits.images) }
    let counts = [
      ("tokens", tokens.count, positions), ("keyStart", keyStart.count, positions),
      ("keyEnd", keyEnd.count, positions), ("targetTokens", targetTokens.count, targetPositions.count),
      ("patchPositions", patchPositions.count, patches), ("clean", clean.count, patches * model.patchElements),
      ("noise", noise.count, patches * model.patchElements),
    ]
    for (name, count, expected) in counts where count != expected {
      throw .wrongCount(name: name, count: count, expected: expected)
    }
    try check("tokens", tokens, in: -1..<model.vocabulary)
    try check("targetTokens", targetTokens, in: 0..<model.vocabulary)
    try check("targetPositions", targetPositions, in: 0..<positions)
    try check("patchPositions", patchPositions, in: 0..<positions)
    try check("timesteps", timesteps, in: 0..<Stage.noiseLevels)
    try check("keyStart", keyStart, in: 0..<positions)
    for t in 0..<positions {
      let allowed = Int(keyStart[t]) + 1..<positions + 1
      if !allowed.contains(Int(keyEnd[t])) {
        throw .outOfRange(name: "keyEnd", index: t, value: Int(keyEnd[t]), allowed: allowed)
      }
    }
    for i in targetPositions.indices.dropFirst() where targetPositions[i] <= targetPositions[i - 1] {
      throw .notAscending(name: "targetPositions", index: i)
    }
    // Each position carries at most one loss: scattering the heads' gradients relies on it.
    var taken = [Bool](repeating: false, count: positions)
    for (name, list) in [("targetPositions", targetPositions), ("patchPositions", patchPositions)] {
      for (i, position) in list.enumerated() {
        if taken[Int(position)] { throw .positionTaken(name: name, index: i, position: Int(position)) }
        taken[Int(position)] = true
      }
    }
  }

  private func check(_ name: String, _ values: [Int32], in allowed: Range<Int>) throws(MicrobatchError) {
    for (index, value) in values.enumerated() where !allowed.contains(Int(value)) {
      throw .outOfRange(name: name, index: index, value: Int(value), allowed: allowed)
    }
  }
}
