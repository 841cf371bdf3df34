import Compute
import Testing

@Suite struct CPUDeviceElementTests {
  static let types: [ElementType] = [.float32, .bfloat16]
  private func tolerance(_ type: ElementType) -> Float { type == .float32 ? 2e-6 : 4e-3 }

  @Test(arguments: types, [1, 17, 2_048]) func swiGLU(_ type: ElementType, _ f: Int) throws {
    let t = 21
    try DeviceComparison.check(tolerance(type)) { device in
      let gateUp = try device.tensor(type, [t, 2 * f], gaussians(1, 2 * t * f, scale: 4))
      let output = try device.allocate(type, [t, f])
      device.swiGLU(gateUp, into: output)
      let dOutput = try device.tensor(type, [t, f], gaussians(2, t * f))
      let separate = try device.allocate(type, [t, 2 * f])
      let again = try device.allocate(type, [t, f])
      device.swiGLUBackward(dOutput, gateUp: gateUp, into: separate, output: again)
      device.swiGLUBackward(dOutput, gateUp: gateUp, into: gateUp, output: dOutput)
      return try [output, separate, gateUp, again, dOutput].map { try device.values($0) }
    }
  }

  @Test(arguments: types, [1, 100, 70_000]) func silu(_ type: ElementType, _ count: Int) throws {
    try DeviceComparison.check(tolerance(type)) { device in
      let x = try device.tensor(type, [count], gaussians(1, count, scale: 20))
      let y = try device.allocate(type, [count])
      device.silu(x, into: y)
      let dy = try device.tensor(type, [count], gaussians(2, count))
      let dx = try device.allocate(type, [count])
      device.siluBackward(dy, x: x, into: dx)
      return [try device.values(y), try device.values(dx)]
    }
  }

  @Test func siluOfExtremesIsFinite() throws {
    let extremes: [Float] = [-3e38, -1e4, -200, -89, -88, -87, 0, 87, 88, 89, 200, 3e38]
    for set in DeviceComparison.instructionSets {
      let device = try CPUDevice(threads: 1, instructionSet: set)
      let x = try device.tensor([extremes.count], extremes)
      let y = try device.allocate(.float32, [extremes.count])
      device.silu(x, into: y)
      for (input, output) in zip(extremes, try device.values(y)) {
        #expect(input <= 0 ? abs(output) < 1e-30 : abs(output / input - 1) < 1e-6, "\(input) \(output)")
      }
    }
  }

  @Test func copyConvertsToNearestEven() throws {
    let patterns: [UInt32] = [
      0x3F80_0000, 0x3F80_7FFF, 0x3F80_8000, 0x3F80_8001, 0x3F81_8000, 0xBF81_8000, 0x7F7F_FFFF, 0x7F80_0000,
      0xFF80_0000,
      0x0000_0001, 0x8000_0000, 0x0080_8000,
    ]
    let expected: [UInt16] = [
      0x3F80, 0x3F80, 0x3F80, 0x3F81, 0x3F82, 0xBF82, 0x7F80, 0x7F80, 0xFF80, 0x0000, 0x8000, 0x0080,
    ]
    for set in DeviceComparison.instructionSets {
      for repeats in [1, 3] {
        let device = try CPUDevice(threads: 2, instructionSet: set)
        let source = try device.allocate(.float32, [patterns.count * repeats])
        let target = try device.allocate(.bfloat16, [patterns.count * repeats])
        device.upload((0..<repeats).flatMap { _ in patterns }, to: source)
        device.copy(source, to: target)
        var bits = [UInt16](repeating: 0, count: target.count)
        try bits.withUnsafeMutableBytes { try device.download(target, into: $0) }
        #expect(bits == (0..<repeats).flatMap { _ in expected })
        device.fill(source, with: .nan)
        device.upload([UInt32](repeating: 0x7FFF_FFFF, count: source.count), to: source)
        device.copy(source, to: target)
        #expect(try device.values(target).allSatisfy(\.isNaN))
      }
    }
  }

  @Test func fillCopyAndAdd() throws {
    let count = 70_001
    try DeviceComparison.check(0) { device in
      let a = try device.tensor([count], gaussians(1, count))
      let b = try device.allocate(.float32, [count])
      device.fill(b, with: 1.5)
      device.add(a, to: b)
      let c = try device.allocate(.bfloat16, [count])
      device.fill(c, with: -2)
      let d = try device.allocate(.float32, [count])
      device.copy(c, to: d)
      device.copy(a, to: c)
      device.fill(a, with: 0)
      return [try device.values(a), try device.values(d), try device.values(c)]
    }
  }

  @Test(arguments: [1, 100, 70_000]) func adamW(_ count: Int) throws {
    try DeviceComparison.check(4e-3) { device in
      let p = try device.tensor([count], gaussians(1, count))
      let copy = try device.allocate(.bfloat16, [count])
      let (m, v) = (try device.allocate(.float32, [count]), try device.allocate(.float32, [count]))
      var beta1Power: Float = 1
      var beta2Power: Float = 1
      for k in 0..<3 {
        beta1Power *= 0.9
        beta2Power *= 0.95
        let g = try device.tensor([count], gaussians(UInt64(10 + k), count))
        device.adamW(
          p, gradient: g, firstMoment: m, secondMoment: v, computeCopy: copy,
          AdamWStep(
            learningRate: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, gradientScale: 0.7,
            correction1: 1 - beta1Power, correction2: 1 - beta2Power))
      }
      // The wide results far more closely than the bfloat16 copy: scaled so that one tolerance fits both.
      return [try device.values(copy), try device.values(p), try device.values(m), try device.values(v)]
    }
  }

  @Test(arguments: [1, 4_095, 4_097, 200_000]) func sumOfSquares(_ count: Int) throws {
    for set in DeviceComparison.instructionSets {
      var bits: Set<UInt64> = []
      for threads in 1...3 {
        let device = try CPUDevice(threads: threads, instructionSet: set)
        let values = gaussians(1, count)
        let result = try device.allocate(.float64, [2])
        device.sumOfSquares(try device.tensor([count], values), into: result, at: 1)
        var sums = [0.0, 0.0]
        try sums.withUnsafeMutableBytes { try device.download(result, into: $0) }
        let expected = values.reduce(0.0) { $0 + Double($1) * Double($1) }
        #expect(abs(sums[1] / expected - 1) < 1e-12 && sums[0] == 0)
        bits.insert(sums[1].bitPattern)
      }
      #expect(bits.count == 1)
    }
  }
}
