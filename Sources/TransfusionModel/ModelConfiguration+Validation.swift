/// What is impossible about a model's shape.
public enum ModelConfigurationError: Error, Equatable, CustomStringConvertible {
  case notPositive(name: String, value: Double)
  case doesNotDivide(divisor: String, divisorValue: Int, dividend: String, dividendValue: Int)
  case oddHeadSize(width: Int, heads: Int)
  case oddTimeChannels(Int)
  case negative(name: String, value: Double)

  public var description: String {
    switch self {
    case .notPositive(let name, let value): "model.\(name) is \(value); it must be greater than zero"
    case .negative(let name, let value): "model.\(name) is \(value); it must not be negative"
    case .doesNotDivide(let divisor, let divisorValue, let dividend, let dividendValue):
      "model.\(divisor) (\(divisorValue)) does not divide \(dividend) (\(dividendValue)); choose a divisor"
    case .oddHeadSize(let width, let heads):
      "model.width / model.heads is \(width / heads); rotary positions need an even head size"
    case .oddTimeChannels(let channels):
      "model.timeChannels is \(channels); it must be even, half sines and half cosines"
    }
  }
}

extension ModelConfiguration {
  /// Refuses shapes that no layer can have.
  public func validate() throws(ModelConfigurationError) {
    let positive: [(String, Double)] = [
      ("layers", Double(layers)), ("width", Double(width)), ("heads", Double(heads)),
      ("keyValueHeads", Double(keyValueHeads)), ("feedForwardWidth", Double(feedForwardWidth)),
      ("vocabulary", Double(vocabulary)), ("channels", Double(channels)), ("latentSize", Double(latentSize)),
      ("patch", Double(patch)), ("timeChannels", Double(timeChannels)), ("ropeTheta", ropeTheta),
      ("normEpsilon", Double(normEpsilon)),
    ]
    for (name, value) in positive where !(value > 0 && value.isFinite) { throw .notPositive(name: name, value: value) }
    let notNegative = [("initialDeviation", Double(initialDeviation)), ("diffusionWeight", diffusionWeight)]
    for (name, value) in notNegative where !(value >= 0 && value.isFinite) { throw .negative(name: name, value: value) }
    try require("heads", heads, divides: "model.width", width)
    try require("keyValueHeads", keyValueHeads, divides: "model.heads", heads)
    try require("patch", patch, divides: "model.latentSize", latentSize)
    if headSize % 2 != 0 { throw .oddHeadSize(width: width, heads: heads) }
    if timeChannels % 2 != 0 { throw .oddTimeChannels(timeChannels) }
  }

  private func require(
    _ divisor: String, _ divisorValue: Int, divides dividend: String, _ dividendValue: Int
  ) throws(ModelConfigurationError) {
    guard dividendValue % divisorValue == 0 else {
      throw .doesNotDivide(
        divisor: divisor, divisorValue: divisorValue, dividend: dividend, dividendValue: dividendValue)
    }
  }
}
