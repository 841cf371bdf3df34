import Compute
import Randomness
import Testing
import TransfusionModel

@Suite("Gradients")
struct GradientTests {
  /// The slope along a direction in one tensor, by differences of fourth order (the loss bends strongly at these
  /// deviations). Losses cross as float32, so a difference over h = 0.01 is good to about 1e-4.
  @Test("Every tensor's gradient is the slope of the loss")
  func finiteDifferences() throws {
    let device = ReferenceDevice()
    let batch = Sample.mixed
    let pipeline = try Pipeline(device: device)
    let stage = pipeline.stages[0]
    pipeline.forward(batch)
    pipeline.backward(denominators: batch.denominators)
    let gradients = try pipeline.gradientsByName()

    for parameter in stage.parameters {
      let name = parameter.specification.name
      let gradient = try #require(gradients[name])
      let view = parameter.view(of: stage.values)
      let values = try device.floats(view)
      for stream: UInt64 in 0..<2 {
        // A random direction, and the gradient's own.
        var direction = gradient
        if stream == 0 {
          CounterStream(seed: 3, purpose: .noise, stream: UInt64(parameter.tensorIndex)).fillGaussian(&direction)
        }
        let length = direction.reduce(0) { $0 + $1 * $1 }.squareRoot()
        #expect(length > 0, "\(name) has no gradient")
        for i in direction.indices { direction[i] /= length }
        func loss(_ h: Float) throws -> Double {
          device.upload(zip(values, direction).map { $0 + h * $1 }, to: view)
          return try pipeline.loss(batch)
        }
        let h: Float = 0.01
        let near = try loss(h) - loss(-h)
        let far = try loss(2 * h) - loss(-2 * h)
        let slope = (8 * near - far) / Double(12 * h)
        device.upload(values, to: view)
        let expected = zip(gradient, direction).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
        let scale = gradient.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
        #expect(abs(slope - expected) <= 1e-3 * scale + 2e-4, "\(name): slope \(slope), gradient \(expected)")
      }
    }
  }

  @Test("The forward losses and those of the backward pass are the same", arguments: TestDevice.allCases)
  func losses(_ kind: TestDevice) throws {
    let pipeline = try Pipeline(device: kind.make())
    let evaluated = try pipeline.loss(Sample.mixed)
    pipeline.forward(Sample.mixed)
    pipeline.backward(denominators: Sample.mixed.denominators)
    let trained = try pipeline.total(pipeline.stages[0].losses(slot: 0), Sample.mixed.denominators)
    #expect(evaluated.bitPattern == trained.bitPattern)
  }

  @Test("Two microbatches with global denominators are one of both", arguments: [TestDevice.exact, .cpu])
  func accumulation(_ kind: TestDevice) throws {
    let (first, second) = (Sample.microbatch([[.captionFirst, .text]]), Sample.microbatch([[.imageFirst]], seed: 2))
    var both = first
    let shift = Int32(first.tokens.count)
    both.rows = 2
    both.tokens += second.tokens
    both.keyStart += second.keyStart.map { $0 + shift }
    both.keyEnd += second.keyEnd.map { $0 + shift }
    both.targetPositions += second.targetPositions.map { $0 + shift }
    both.targetTokens += second.targetTokens
    both.patchPositions += second.patchPositions.map { $0 + shift }
    both.clean += second.clean
    both.noise += second.noise
    both.timesteps += second.timesteps

    let (whole, parts) = (try Pipeline(device: kind.make()), try Pipeline(slots: 2, device: kind.make()))
    whole.forward(both)
    whole.backward(denominators: both.denominators)
    // Both in flight at once, as in a pipeline.
    parts.forward(first, slot: 0)
    parts.forward(second, slot: 1)
    parts.backward(slot: 0, denominators: both.denominators)
    parts.backward(slot: 1, denominators: both.denominators)
    let (expected, found) = (try whole.gradientsByName(), try parts.gradientsByName())
    for (name, gradient) in expected.sorted(by: { $0.key < $1.key }) {
      let largest = gradient.reduce(0) { max($0, abs($1)) }
      let error = zip(gradient, try #require(found[name])).reduce(0) { max($0, abs($1.0 - $1.1)) }
      #expect(error <= 3e-6 * largest, "\(name)")
    }
  }

  @Test(
    "A microbatch may lack images, targets, or both", arguments: TestDevice.allCases, [Precision.float32, .bfloat16])
  func missingParts(_ kind: TestDevice, precision: Precision) throws {
    let text = Sample.microbatch([[.text], [.text, .text]])
    var images = Sample.microbatch([[.captionFirst]])
    images.targetPositions = []
    images.targetTokens = []
    let denominators = Denominators(targetTokens: 100, images: 10)
    for (batch, hasText, hasImages) in [
      (text, true, false), (images, false, true), (Sample.microbatch([[]]), false, false),
    ] {
      let pipeline = try Pipeline(precision: precision, device: kind.make())
      pipeline.forward(batch)
      pipeline.backward(denominators: denominators)
      let sums = try pipeline.stages[0].losses(slot: 0)
      #expect((sums.languageModelSum > 0) == hasText)
      #expect((sums.diffusionSum > 0) == hasImages)
      let gradients = try pipeline.gradientsByName()
      func moves(_ name: String) throws -> Bool { try #require(gradients[name]).contains { $0 != 0 } }
      #expect(try moves("lm_head.weight") == hasText)
      #expect(try moves("patch_out.bias") == hasImages)
      #expect(try moves("time_embedding.linear_1.weight") == hasImages)
      #expect(try moves("model.layers.0.mlp.up_proj.weight") == (hasText || hasImages))
      #expect(gradients.values.allSatisfy { $0.allSatisfy(\.isFinite) })
    }
  }
}
