import Foundation

/// The cosine noise schedule of DDPM (Nichol and Dhariwal 2021; diffusers' `squaredcos_cap_v2`):
/// x_t = signal(t) x_0 + sigma(t) epsilon with signal^2 + sigma^2 = 1.
public struct NoiseSchedule: Hashable, Sendable {
  /// sqrt(abar_t) for t = 0 ..< steps.
  public let signal: [Float]
  /// sqrt(1 - abar_t).
  public let sigma: [Float]
  /// abar_t, the share of the signal's variance that is left.
  public let alphaBar: [Double]

  public var steps: Int { alphaBar.count }

  /// s = 0.008, beta clipped at 0.999, as in the paper.
  public init(steps: Int = 1_000) {
    func cumulative(_ time: Double) -> Double {
      let c = cos((time + 0.008) / 1.008 * Double.pi / 2)
      return c * c
    }
    var product = 1.0
    var alphaBar: [Double] = []
    for t in 0..<steps {
      let beta = min(1 - cumulative(Double(t + 1) / Double(steps)) / cumulative(Double(t) / Double(steps)), 0.999)
      // diffusers keeps beta, 1 - beta and their running product in float32 (the product itself is
      // accumulated wider): its numbers are the definition, so they are rounded where it rounds.
      product *= Double(1 - Float(beta))
      alphaBar.append(Double(Float(product)))
    }
    self.alphaBar = alphaBar
    signal = alphaBar.map { Float($0.squareRoot()) }
    sigma = alphaBar.map { Float((1 - $0).squareRoot()) }
  }
}
