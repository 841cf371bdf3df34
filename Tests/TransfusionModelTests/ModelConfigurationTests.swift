import Compute
import Testing
import TransfusionModel

@Suite("Configuration, parameters, cost")
struct ModelConfigurationTests {
  private func paper(_ layers: Int, _ width: Int, _ heads: Int, _ feedForward: Int) -> ModelConfiguration {
    ModelConfiguration(
      layers: layers, width: width, heads: heads, keyValueHeads: heads, feedForwardWidth: feedForward,
      vocabulary: 32_000, channels: 8, latentSize: 32, patch: 2)
  }

  @Test("The paper's sizes, with their linear codec of at most a hundredth")
  func paperSizes() {
    for (layers, width, heads, feedForward, millions) in [
      (16, 768, 12, 2_048, 162.4), (24, 1_024, 16, 2_816, 373.9), (24, 1_536, 24, 4_096, 777.9),
      (24, 2_048, 16, 5_632, 1_364), (32, 4_096, 32, 11_008, 6_738),
    ] {
      let count = Double(paper(layers, width, heads, feedForward).parameterCount) / 1e6
      #expect(count >= millions - 0.5 && count <= millions * 1.01, "\(count) million")
    }
  }

  @Test("Names and order are those of the reference; q k v and gate up lie back to back")
  func order() throws {
    let model = Sample.model
    #expect(model.parameters.count == 7 + 9 * model.layers + 4)
    #expect(Set(model.parameters.map(\.name)).count == model.parameters.count)
    #expect(model.parameters.map(\.unit) == model.parameters.map(\.unit).sorted())
    let stage = try Stage(
      model, units: 1..<3, limits: Sample.limits, precision: .bfloat16, recompute: .nothing, slots: 1,
      device: ReferenceDevice())
    for (parameter, next) in zip(stage.parameters, stage.parameters.dropFirst()) {
      #expect(model.parameters[parameter.tensorIndex] == parameter.specification)
      let end = parameter.offset + parameter.specification.count
      #expect(next.specification.continuesPrevious ? next.offset == end : next.offset >= end && next.offset % 16 == 0)
      #expect((parameter.copyOffset != nil) == (parameter.specification.role == .weight))
    }
    #expect(
      stage.parameters.filter(\.specification.continuesPrevious).map { $0.specification.name.split(separator: ".")[4] }
        == [
          "k_proj", "v_proj", "up_proj", "k_proj", "v_proj", "up_proj",
        ])
  }

  @Test("Impossible shapes are named")
  func validation() throws {
    try Sample.model.validate()
    func error(_ change: (inout ModelConfiguration) -> Void) -> ModelConfigurationError? {
      var model = Sample.model
      change(&model)
      do throws(ModelConfigurationError) { try model.validate() } catch { return error }
      return nil
    }
    #expect(error { $0.layers = 0 } == .notPositive(name: "layers", value: 0))
    #expect(
      error { $0.heads = 3 }
        == .doesNotDivide(
          divisor: "heads", divisorValue: 3, dividend: "model.width", dividendValue: 16))
    #expect(error { $0.keyValueHeads = 3 } != nil)
    #expect(error { $0.patch = 3 } != nil)
    #expect(error { $0.heads = 16 } == .oddHeadSize(width: 16, heads: 16))
    #expect(error { $0.timeChannels = 31 } == .oddTimeChannels(31))
    #expect(error { $0.diffusionWeight = -1 } == .negative(name: "diffusionWeight", value: -1))
    #expect(error { $0.ropeTheta = .nan } != nil)
  }

  @Test("The memory that is planned is the memory that is taken", arguments: Precision.allCases, Recompute.allCases)
  func memory(_ precision: Precision, recompute: Recompute) throws {
    let model = Sample.model
    for units in [0..<model.unitCount, 0..<1, 1..<3, 2..<4, 3..<4] {
      let device = ReferenceDevice()
      let stage = try Stage(
        model, units: units, limits: Sample.limits, precision: precision, recompute: recompute, slots: 3, device: device
      )
      let planned = model.memory(
        units: units, limits: Sample.limits, precision: precision, recompute: recompute, slots: 3)
      #expect(
        device.requestedBytes == planned.parameterBytes + planned.copyBytes + planned.workspaceBytes
          + planned.activationBytes)
      let before = device.requestedBytes
      _ = try stage.makeGradient()
      #expect(device.requestedBytes - before == planned.gradientBytes)

      let other = ReferenceDevice()
      let passing = try Stage(
        model, units: units, limits: Sample.limits, precision: precision, recompute: recompute, slots: 3, device: other,
        hasPassingGradient: true)
      let plannedPassing = model.memory(
        units: units, limits: Sample.limits, precision: precision, recompute: recompute, slots: 3,
        hasPassingGradient: true)
      #expect(passing.passingGradient?.count == stage.values.count && stage.passingGradient == nil)
      #expect(
        other.requestedBytes == plannedPassing.parameterBytes + plannedPassing.copyBytes
          + plannedPassing.workspaceBytes + plannedPassing.activationBytes + plannedPassing.gradientBytes)
    }
  }

  @Test("A gradient in the place of activations takes little more than the larger of both")
  func passingGradient() {
    let model = paper(16, 768, 12, 2_048)
    let limits = MicrobatchLimits(rows: 2, length: 1_024, images: 4)
    for recompute in Recompute.allCases {
      func memory(_ isPassing: Bool) -> StageMemory {
        model.memory(
          units: 0..<model.unitCount, limits: limits, precision: .bfloat16, recompute: recompute, slots: 1,
          hasPassingGradient: isPassing)
      }
      let (separate, passing) = (memory(false), memory(true))
      let larger = max(separate.gradientBytes, separate.activationBytes)
      #expect(passing.gradientBytes + passing.activationBytes < larger + larger / 4)
      // The least that must be free: the last layer's and the output side's gradients beside all activations.
      #expect(passing.gradientBytes >= separate.gradientBytes / 6)
    }
  }

  @Test("Recomputation takes less per microbatch; heads and layers cost what they multiply")
  func costs() {
    let model = paper(16, 768, 12, 2_048)
    let limits = MicrobatchLimits(rows: 2, length: 1_024, images: 4)
    let kept = model.unitCosts(limits: limits, precision: .bfloat16, recompute: .nothing)
    let recomputed = model.unitCosts(limits: limits, precision: .bfloat16, recompute: .full)
    let selective = model.unitCosts(limits: limits, precision: .bfloat16, recompute: .selective)
    #expect(kept.map(\.unit) == Array(0..<model.unitCount))
    #expect(kept.reduce(0) { $0 + $1.parameterCount } == model.parameterCount)
    for (a, b) in zip(kept, recomputed) {
      #expect(a.activationBytes >= 0 && b.activationBytes <= a.activationBytes)
      #expect(a.forwardFlops > 0 && a.forwardFlops == b.forwardFlops)
    }
    #expect(recomputed[1].activationBytes < kept[1].activationBytes / 4)
    #expect(selective[1].activationBytes < kept[1].activationBytes / 3)
    #expect(selective[1].activationBytes > recomputed[1].activationBytes)
    // 2,048 positions, half of them text, by 768 x 32,000; a layer has 7.1M weights and the attention.
    #expect(abs(kept[17].forwardFlops / (2 * 1_024 * 768 * 32_000) - 1) < 0.01)
    #expect(abs(kept[1].forwardFlops / (2 * 2_048 * 7.08e6) - 1) < 0.15)
  }

  @Test("A microbatch that does not fit is named")
  func microbatches() throws {
    let (model, limits) = (Sample.model, Sample.limits)
    try Sample.mixed.validate(for: model, limits: limits)
    try Sample.microbatch([[]]).validate(for: model, limits: limits)
    func error(_ change: (inout Microbatch) -> Void) -> MicrobatchError? {
      var batch = Sample.mixed
      change(&batch)
      do throws(MicrobatchError) { try batch.validate(for: model, limits: limits) } catch { return error }
      return nil
    }
    #expect(error { $0.rows = 3 } == .exceedsLimits(name: "rows", value: 3, limit: 2))
    #expect(error { $0.length = 12 } != nil)
    #expect(error { $0.tokens[3] = 32 } == .outOfRange(name: "tokens", index: 3, value: 32, allowed: -1..<32))
    #expect(
      error { $0.timesteps[0] = 1_000 } == .outOfRange(name: "timesteps", index: 0, value: 1_000, allowed: 0..<1_000))
    #expect(error { $0.keyEnd[5] = $0.keyStart[5] } != nil)
    #expect(error { $0.noise.removeLast() } != nil)
    #expect(error { $0.targetPositions[1] = $0.targetPositions[0] } == .notAscending(name: "targetPositions", index: 1))
    #expect(error { $0.patchPositions[1] = $0.patchPositions[0] } != nil)
  }
}

@Suite("Noise schedule")
struct NoiseScheduleTests {
  @Test("diffusers' squaredcos_cap_v2")
  func cosine() {
    let schedule = NoiseSchedule()
    #expect(schedule.steps == 1_000)
    // DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod at 0, 1, 499, 998, 999.
    for (t, expected) in [
      (0, 0.9999586939811707), (1, 0.9999125599861145), (499, 0.4938434660434723), (998, 2.428766265438753e-06),
      (999, 2.4287349909002387e-09),
    ] {
      #expect(abs(schedule.alphaBar[t] - expected) <= 1e-12 + 1e-7 * expected, "t = \(t)")
    }
    for t in 0..<1_000 {
      let power =
        Double(schedule.signal[t]) * Double(schedule.signal[t]) + Double(schedule.sigma[t]) * Double(schedule.sigma[t])
      #expect(abs(power - 1) < 1e-6)
    }
  }
}
