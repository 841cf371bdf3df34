import Foundation

/// Sines and cosines that the model looks up, computed once on the host.
///
/// Frequencies and angles are float32, as in transformers and diffusers: at t = 999 an angle's rounding is
/// 3e-5, so another precision would be another model.
enum PositionTables {
  /// [steps, channels]: row t is [cos(t f_0) ... cos(t f_h-1) | sin(t f_0) ...] with f_i = 10,000^(-i / h),
  /// h = channels / 2 (diffusers' Timesteps with flip_sin_to_cos, downscale_freq_shift 0).
  static func timesteps(_ steps: Int, channels: Int) -> [Float] {
    let half = channels / 2
    let frequencies = (0..<half).map { i in
      Float(exp(Double(Float(-log(10_000.0)) * Float(i) / Float(half))))
    }
    var table: [Float] = []
    table.reserveCapacity(steps * channels)
    for t in 0..<steps {
      for f in frequencies { table.append(Float(cos(Double(Float(t) * f)))) }
      for f in frequencies { table.append(Float(sin(Double(Float(t) * f)))) }
    }
    return table
  }

  /// [rows * length, E/2] cosines and sines of the rotary angles of position n in each row,
  /// n theta^(-2i / E) (Su et al. 2021, as in transformers' LlamaRotaryEmbedding).
  static func rotary(rows: Int, length: Int, headSize: Int, theta: Double) -> (cosine: [Float], sine: [Float]) {
    let frequencies = (0..<headSize / 2).map { i in
      1 / Float(pow(theta, Double(Float(2 * i) / Float(headSize))))
    }
    var (cosine, sine): ([Float], [Float]) = ([], [])
    for n in 0..<length {
      for f in frequencies {
        cosine.append(Float(cos(Double(Float(n) * f))))
        sine.append(Float(sin(Double(Float(n) * f))))
      }
    }
    func repeated(_ table: [Float]) -> [Float] { (0..<rows).flatMap { _ in table } }
    return (repeated(cosine), repeated(sine))
  }
}
