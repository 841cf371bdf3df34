import Compute
import Testing

@Suite struct CPUDeviceLossTests {
  struct Case: CustomTestStringConvertible {
    var rows, width, vocabulary: Int
    var testDescription: String { "M\(rows) D\(width) V\(vocabulary)" }
  }
  static let cases = [
    Case(rows: 1, width: 4, vocabulary: 3), Case(rows: 50, width: 33, vocabulary: 1_003),
    Case(rows: 128, width: 16, vocabulary: 600), Case(rows: 1_200, width: 8, vocabulary: 70),
  ]

  @Test(arguments: cases) func float32(_ c: Case) throws { try check(c, .float32, 1e-5) }
  @Test(arguments: cases) func bfloat16(_ c: Case) throws { try check(c, .bfloat16, 1e-2) }

  private func check(_ c: Case, _ type: ElementType, _ tolerance: Float) throws {
    try DeviceComparison.check(tolerance) { device in
      let hidden = try device.tensor(type, [c.rows, c.width], gaussians(1, c.rows * c.width))
      let weight = try device.tensor(type, [c.vocabulary, c.width], gaussians(2, c.vocabulary * c.width))
      let targets = try device.tensor((0..<c.rows).map { Int32($0 * 37 % c.vocabulary) })
      let losses = try device.allocate(.float32, [c.rows])
      let evaluated = try device.allocate(.float32, [c.rows])
      device.headLoss(hidden, weight: weight, targets: targets, losses: evaluated, gradient: nil)
      let dHidden = try device.tensor([c.rows, c.width], gaussians(3, c.rows * c.width))
      let dWeight = try device.tensor([c.vocabulary, c.width], gaussians(4, c.vocabulary * c.width))
      device.headLoss(
        hidden, weight: weight, targets: targets, losses: losses,
        gradient: HeadGradient(scale: 0.3, dHidden: dHidden, weightGradient: dWeight))
      return [
        try device.values(evaluated), try device.values(losses), try device.values(dHidden), try device.values(dWeight),
      ]
    }
  }

  @Test func noTargetsIsFine() throws {
    let device = try CPUDevice(threads: 2)
    let none = try device.allocate(.bfloat16, [0, 8])
    let weight = try device.allocate(.bfloat16, [5, 8])
    let gradient = try device.tensor([5, 8], gaussians(1, 40))
    device.headLoss(
      none, weight: weight, targets: try device.tensor([]), losses: try device.allocate(.float32, [0]),
      gradient: HeadGradient(scale: 1, dHidden: try device.allocate(.float32, [0, 8]), weightGradient: gradient))
    #expect(try device.values(gradient) == gaussians(1, 40))
  }

  @Test(arguments: [1, 255, 256, 3_072]) func squaredError(_ elements: Int) throws {
    let images = 3
    try DeviceComparison.check(2e-6) { device in
      let prediction = try device.tensor([images, elements], gaussians(1, images * elements))
      let target = try device.tensor([images, elements], gaussians(2, images * elements))
      let losses = try device.allocate(.float32, [images])
      let gradient = try device.allocate(.float32, [images, elements])
      device.squaredError(prediction, target: target, losses: losses, gradient: nil, scale: 0)
      let first = try device.values(losses)
      device.squaredError(prediction, target: target, losses: losses, gradient: gradient, scale: 0.25)
      return [first, try device.values(losses), try device.values(gradient)]
    }
  }
}
