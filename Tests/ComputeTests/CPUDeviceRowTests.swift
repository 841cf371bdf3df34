import Compute
import Testing

@Suite struct CPUDeviceRowTests {
  static let types: [ElementType] = [.float32, .bfloat16]
  static let sizes = [[1, 1], [5, 16], [37, 50], [70, 768], [300, 33]]

  private func tolerance(_ type: ElementType) -> Float { type == .float32 ? 2e-6 : 4e-3 }

  @Test(arguments: types, sizes) func rmsNorm(_ type: ElementType, _ size: [Int]) throws {
    let (t, d) = (size[0], size[1])
    try DeviceComparison.check(tolerance(type)) { device in
      let x = try device.tensor([t, d], gaussians(1, t * d))
      let weight = try device.tensor([d], gaussians(2, d))
      let y = try device.allocate(type, [t, d])
      let inverse = try device.allocate(.float32, [t])
      device.rmsNorm(x, weight: weight, epsilon: 1e-5, into: y, inverse: inverse)
      let dy = try device.tensor(type, [t, d], gaussians(3, t * d))
      let dx = try device.tensor([t, d], gaussians(4, t * d))
      let dw = try device.tensor([d], gaussians(5, d))
      device.rmsNormBackward(dy, x: x, weight: weight, inverse: inverse, addingTo: dx, weightGradient: dw)
      return [try device.values(y), try device.values(inverse), try device.values(dx), try device.values(dw)]
    }
  }

  @Test(arguments: types, sizes) func biases(_ type: ElementType, _ size: [Int]) throws {
    let (m, n) = (size[0], size[1])
    try DeviceComparison.check(tolerance(type)) { device in
      let bias = try device.tensor([n], gaussians(1, n))
      let rows = try device.tensor(type, [m, n], gaussians(2, m * n))
      device.addBias(bias, to: rows)
      let gradient = try device.tensor([n], gaussians(3, n))
      device.addBiasGradient(rows, to: gradient)
      return [try device.values(rows), try device.values(gradient)]
    }
  }

  @Test(arguments: types, [(8, 2, 2), (9, 4, 1), (64, 12, 4)])
  func rotation(_ type: ElementType, _ s: (t: Int, heads: Int, groups: Int)) throws {
    for half in [1, 3, 16, 32] {
      let width = (s.heads + 2 * s.groups) * 2 * half
      try DeviceComparison.check(tolerance(type)) { device in
        let cosine = try device.tensor([s.t, half], gaussians(1, s.t * half))
        let sine = try device.tensor([s.t, half], gaussians(2, s.t * half))
        var results: [[Float]] = []
        for inverse in [false, true] {
          let qkv = try device.tensor(type, [s.t, width], gaussians(3, s.t * width))
          device.rotate(
            qkv, heads: s.heads, keyValueHeads: s.groups, cosine: cosine, sine: sine, inverse: inverse)
          results.append(try device.values(qkv))
        }
        return results
      }
    }
  }

  @Test(arguments: [1, 16, 50, 768]) func embedding(_ d: Int) throws {
    let tokens: [Int32] = (0..<90).map { $0 % 7 == 3 ? -1 : Int32($0 * 5 % 11) }
    try DeviceComparison.check(1e-6) { device in
      let ids = try device.tensor(tokens)
      let table = try device.tensor([11, d], gaussians(1, 11 * d))
      let rows = try device.tensor([90, d], gaussians(2, 90 * d))
      device.embed(ids, table: table, into: rows)
      let gradient = try device.tensor([11, d], gaussians(3, 11 * d))
      let upstream = try device.tensor([90, d], gaussians(4, 90 * d))
      device.embedBackward(ids, upstream, addingTo: gradient)
      return [try device.values(rows), try device.values(gradient)]
    }
  }

  @Test(arguments: types, types) func gatherAndScatter(_ from: ElementType, _ to: ElementType) throws {
    let indices: [Int32] = [4, 0, 6, 2]
    try DeviceComparison.check(4e-3) { device in
      let picks = try device.tensor(indices)
      let source = try device.tensor(from, [7, 19], gaussians(1, 7 * 19))
      let gathered = try device.allocate(to, [4, 19])
      device.gatherRows(source, picks, into: gathered)
      let scattered = try device.tensor(from, [7, 19], gaussians(2, 7 * 19))
      device.scatterRows(gathered, picks, into: scattered)
      return [try device.values(gathered), try device.values(scattered)]
    }
  }

  @Test(arguments: types) func diffusion(_ type: ElementType) throws {
    let (images, patches, k) = (3, 5, 21)
    try DeviceComparison.check(tolerance(type)) { device in
      let clean = try device.tensor([images * patches, k], gaussians(1, images * patches * k))
      let noise = try device.tensor([images * patches, k], gaussians(2, images * patches * k))
      let signal = try device.tensor([images], [0.9, 0.5, 0.1])
      let sigma = try device.tensor([images], [0.1, 0.6, 0.99])
      let noisy = try device.allocate(.float32, [images * patches, k])
      device.addNoise(clean, noise, signal: signal, sigma: sigma, into: noisy)
      let time = try device.tensor([images, k], gaussians(3, images * k))
      let rows = try device.tensor([images * patches, k], gaussians(4, images * patches * k))
      device.addTime(time, to: rows)
      let dTime = try device.allocate(type, [images, k])
      device.addTimeBackward(rows, into: dTime)
      return [try device.values(noisy), try device.values(rows), try device.values(dTime)]
    }
  }

  @Test func noImagesIsFine() throws {
    let device = try CPUDevice(threads: 2)
    let none = try device.allocate(.float32, [0, 12])
    let empty = try device.allocate(.float32, [0])
    let rows = try device.allocate(.float32, [0])
    device.addNoise(none, none, signal: empty, sigma: empty, into: none)
    device.addTime(none, to: none)
    device.addTimeBackward(none, into: none)
    device.squaredError(none, target: none, losses: rows, gradient: none, scale: 1)
    device.addBias(try device.allocate(.float32, [12]), to: none)
    device.addBiasGradient(none, to: try device.allocate(.float32, [12]))
    device.gatherRows(try device.allocate(.float32, [4, 12]), try device.tensor([]), into: none)
    device.scatterRows(none, try device.tensor([]), into: try device.allocate(.float32, [4, 12]))
    device.rmsNorm(none, weight: try device.allocate(.float32, [12]), epsilon: 1e-5, into: none, inverse: empty)
    device.rmsNormBackward(
      none, x: none, weight: try device.allocate(.float32, [12]), inverse: empty, addingTo: none,
      weightGradient: try device.allocate(.float32, [12]))
    device.swiGLU(try device.allocate(.float32, [0, 24]), into: none)
    device.silu(none, into: none)
    try device.wait()
  }
}

extension Device {
  func tensor(_ shape: Extents, _ values: [Float]) throws -> Tensor { try tensor(.float32, shape, values) }
}
