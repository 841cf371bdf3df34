import Compute
import TransfusionModel

/// The fastest that this machine multiplies matrices, through the product that training uses: the best of one
/// large square product and of the shapes of the step itself.
enum PeakMeasurement {
  struct Shape: Hashable {
    var rows, columns, inner: Int
    /// The second operand is [columns, inner], as a weight is in the forward pass.
    var transposeB: Bool
    /// A weight's gradient: the first operand is [inner, rows].
    var transposeA = false
    var flops: Double { 2 * Double(rows) * Double(columns) * Double(inner) }
    var text: String { "\(rows) x \(columns) x \(inner)" }
  }

  struct Result {
    var shape: Shape
    var gigaflops: Double
  }

  /// Products of a layer of this model, and of its head in the rows that the device multiplies at once.
  static func shapes(_ model: ModelConfiguration, positions: Int) -> [Shape] {
    let (d, f) = (model.width, model.feedForwardWidth)
    let packed = (model.heads + 2 * model.keyValueHeads) * model.headSize
    var shapes = [Shape(rows: 2048, columns: 2048, inner: 2048, transposeB: true)]
    for (outputs, inputs) in [(packed, d), (2 * f, d), (d, f)] {
      shapes.append(Shape(rows: positions, columns: outputs, inner: inputs, transposeB: true))
      shapes.append(Shape(rows: positions, columns: inputs, inner: outputs, transposeB: false))
      shapes.append(Shape(rows: outputs, columns: inputs, inner: positions, transposeB: false, transposeA: true))
    }
    shapes.append(Shape(rows: min(positions, 1024), columns: model.vocabulary, inner: d, transposeB: true))
    return shapes
  }

  /// Speed of each shape in 10^9 operations per second, the best of some trials.
  static func measure(
    _ shapes: [Shape], type: ElementType, threads: Int, processors: [Int]?, secondsEach: Double
  ) throws -> [Result] {
    let device = try CPUDevice(threads: threads, processors: processors)
    return try shapes.map { shape in
      Result(shape: shape, gigaflops: try Probe(shape, type: type, on: device).gigaflops(seconds: secondsEach))
    }
  }

  /// One product to be measured again and again: a shared machine's speed changes within seconds.
  struct Probe {
    private let shape: Shape
    private let device: CPUDevice
    private let a, b, c: Tensor
    private let clock = ContinuousClock()

    init(_ shape: Shape, type: ElementType, on device: CPUDevice) throws {
      self.shape = shape
      self.device = device
      a = try device.allocate(
        type, shape.transposeA ? [shape.inner, shape.rows] : [shape.rows, shape.inner])
      b = try device.allocate(
        type, shape.transposeB ? [shape.columns, shape.inner] : [shape.inner, shape.columns])
      c = try device.allocate(.float32, [shape.rows, shape.columns])
      // Zeros would be multiplied at a higher clock than real numbers on some processors.
      device.fill(a, with: 0.37)
      device.fill(b, with: -1.21)
    }

    /// The best of at least three trials.
    func gigaflops(seconds: Double) throws -> Double {
      var trials = Trials()
      let start = clock.now
      while trials.seconds.count < 3 || clock.now - start < .seconds(seconds) {
        let elapsed = clock.measure {
          device.matmul(a, transposed: shape.transposeA, b, transposed: shape.transposeB, adding: nil, into: c)
        }
        try device.wait()
        trials.add(elapsed / .seconds(1))
      }
      return shape.flops / trials.best / 1e9
    }
  }
}
