import Compute
import Testing
import TransfusionModel

@Suite("The same bits")
struct SameBitsTests {
  private struct Result: Equatable {
    var loss: UInt64
    var gradients: [String: [UInt32]]
  }

  private func run(
    _ device: any Device, cuts: [Range<Int>]? = nil, precision: Precision, recompute: Recompute = .nothing
  ) throws -> Result {
    let pipeline = try Pipeline(cuts: cuts, precision: precision, recompute: recompute, device: device)
    for seed: UInt64 in 1...2 {
      pipeline.forward(Sample.microbatch([[.captionFirst, .text], [.text, .imageFirst]], seed: seed))
      pipeline.backward(denominators: Denominators(targetTokens: 40, images: 4))
    }
    let sums = try pipeline.stages[pipeline.stages.count - 1].losses(slot: 0)
    return Result(
      loss: (sums.languageModelSum + sums.diffusionSum).bitPattern,
      gradients: try pipeline.gradientsByName().mapValues { $0.map(\.bitPattern) })
  }

  @Test("However the model is cut into stages", arguments: [TestDevice.rounding, .cpu], Precision.allCases)
  func cuts(_ kind: TestDevice, precision: Precision) throws {
    let whole = try run(kind.make(), precision: precision)
    let units = Sample.model.unitCount
    for cut in 1..<units {
      #expect(try run(kind.make(), cuts: [0..<cut, cut..<units], precision: precision) == whole, "cut at \(cut)")
    }
    #expect(try run(kind.make(), cuts: (0..<units).map { $0..<$0 + 1 }, precision: precision) == whole)
  }

  @Test("With activations kept or recomputed", arguments: TestDevice.allCases, Precision.allCases)
  func recompute(_ kind: TestDevice, precision: Precision) throws {
    let kept = try run(kind.make(), precision: precision)
    for recompute in [Recompute.selective, .full] {
      #expect(try run(kind.make(), precision: precision, recompute: recompute) == kept)
      #expect(try run(kind.make(), cuts: [0..<2, 2..<4], precision: precision, recompute: recompute) == kept)
    }
  }

  /// Wide enough that a layer's gradients and activations are of several pages and of about one size.
  private static var wide: ModelConfiguration {
    var model = Sample.model
    (model.layers, model.width, model.feedForwardWidth) = (5, 64, 192)
    return model
  }

  @Test(
    "With the gradient in the place of activations", arguments: Precision.allCases, Recompute.allCases)
  func passingGradient(_ precision: Precision, recompute: Recompute) throws {
    let model = Self.wide
    let limits = MicrobatchLimits(rows: 6, length: 24, images: 12)
    let documents: [Sample.Document] = [.captionFirst, .text]
    let batches = [
      Sample.microbatch([[Sample.Document]](repeating: documents, count: 6), of: model, limits: limits, seed: 1),
      Sample.microbatch([[.text], [.text]], of: model, limits: limits, seed: 2),
      Sample.microbatch([[.text, .imageFirst], documents, documents], of: model, limits: limits, seed: 3),
    ]
    func gradients(_ isPassing: Bool, cuts: [Range<Int>]?, on device: any Device) throws -> [[String: [UInt32]]] {
      let pipeline = try Pipeline(
        model, cuts: cuts, limits: limits, precision: precision, recompute: recompute, hasPassingGradients: isPassing,
        device: device)
      return try batches.map {
        pipeline.forward($0)
        pipeline.backward(denominators: Denominators(targetTokens: 40, images: 4), accumulate: false)
        return try pipeline.gradientsByName().mapValues { $0.map(\.bitPattern) }
      }
    }
    for cuts in [nil, [0..<3, 3..<7], [0..<1, 1..<5, 5..<6, 6..<7]] {
      let separate = try gradients(false, cuts: cuts, on: TestDevice.cpu.make())
      #expect(try gradients(true, cuts: cuts, on: TestDevice.cpu.make()) == separate)
    }
    // The two do share memory on a device that has bytes.
    let memory = model.memory(
      units: 0..<model.unitCount, limits: limits, precision: precision, recompute: recompute, slots: 1,
      hasPassingGradient: true)
    #expect(memory.gradientBytes < memory.momentBytes / 2 * 9 / 10)
  }

  @Test("On any number of threads", arguments: Precision.allCases)
  func threads(_ precision: Precision) throws {
    let one = try run(TestDevice.cpu.make(threads: 1), precision: precision)
    for threads in 2...4 { #expect(try run(TestDevice.cpu.make(threads: threads), precision: precision) == one) }
  }

  @Test("In whatever slot, after whatever it held before", arguments: TestDevice.allCases)
  func slots(_ kind: TestDevice) throws {
    let fresh = try Pipeline(device: kind.make())
    let used = try Pipeline(slots: 3, device: kind.make())
    let small = Sample.microbatch([[.text]])
    used.forward(Sample.mixed, slot: 2)
    used.backward(slot: 2, denominators: Sample.mixed.denominators)
    used.device.fill(used.gradients[0], with: 0)
    used.forward(Sample.mixed, slot: 1)
    used.forward(small, slot: 2)
    used.backward(slot: 2, denominators: small.denominators)
    fresh.forward(small)
    fresh.backward(denominators: small.denominators)
    #expect(try used.gradientsByName() == fresh.gradientsByName())
  }

  @Test("Initial parameters depend on seed and name alone")
  func initialisation() throws {
    let units = Sample.model.unitCount
    let whole = try Pipeline(device: ReferenceDevice()).valuesByName()
    let cut = try Pipeline(cuts: [0..<1, 1..<2, 2..<units], precision: .bfloat16, device: ReferenceDevice())
    #expect(try cut.valuesByName() == whole)
    #expect(try Pipeline(seed: 6, device: ReferenceDevice()).valuesByName() != whole)
    #expect(try #require(whole["model.norm.weight"]).allSatisfy { $0 == 1 })
    #expect(try #require(whole["patch_in.bias"]).allSatisfy { $0 == 0 })
    let weights = try #require(whole["model.embed_tokens.weight"])
    let deviation = (weights.reduce(0) { $0 + $1 * $1 } / Float(weights.count)).squareRoot()
    #expect(abs(deviation - Sample.model.initialDeviation) < 0.03)
    #expect(whole["model.layers.0.mlp.gate_proj.weight"] != whole["model.layers.0.mlp.up_proj.weight"])
  }

  @Test("bfloat16 is close to float32")
  func bfloat16() throws {
    let (wide, narrow) = (
      try Pipeline(device: ReferenceDevice()),
      try Pipeline(precision: .bfloat16, device: ReferenceDevice(rounding: .toElementType))
    )
    let batch = Sample.mixed
    for pipeline in [wide, narrow] {
      pipeline.forward(batch)
      pipeline.backward(denominators: batch.denominators)
    }
    let losses = try [wide, narrow].map { try $0.total($0.stages[0].losses(slot: 0), batch.denominators) }
    #expect(losses[0] != losses[1])
    #expect(abs(losses[0] - losses[1]) < 0.01 * losses[0])
    let narrowGradients = try narrow.gradientsByName()
    for (name, a) in try wide.gradientsByName() {
      let b = try #require(narrowGradients[name])
      func dot(_ x: [Float], _ y: [Float]) -> Double { zip(x, y).reduce(0) { $0 + Double($1.0) * Double($1.1) } }
      #expect(dot(a, b) > 0.99 * (dot(a, a) * dot(b, b)).squareRoot(), "\(name)")
    }
  }

  @Test("Nothing has run before someone waits")
  func late() throws {
    let device = ReferenceDevice()
    let pipeline = try Pipeline(device: device)
    try device.wait()
    pipeline.forward(Sample.mixed)
    pipeline.backward(denominators: Sample.mixed.denominators)
    #expect(device.pendingOperations > 50)
    _ = try pipeline.stages[0].losses(slot: 0)
    #expect(device.pendingOperations == 0)
  }
}
