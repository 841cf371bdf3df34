import Compute
import Foundation
import Optimizers
import Testing

@Suite("Learning rate")
struct LearningRateScheduleTests {
  let schedule = LearningRateSchedule(peak: 3e-4, floor: 1.5e-5, warmupSteps: 4_000, totalSteps: 250_000)

  @Test("Rises in a line, falls as half a cosine, stays at the floor")
  func shape() {
    #expect(schedule.rate(0) == 3e-4 / 4_000)
    #expect(abs(schedule.rate(1_999) - 1.5e-4) < 1e-18)
    #expect(schedule.rate(3_999) == 3e-4)
    #expect(abs(schedule.rate(4_000 + 123_000 - 1) - (3e-4 + 1.5e-5) / 2) < 1e-15)
    #expect(schedule.rate(249_999) == 1.5e-5)
    #expect(schedule.rate(300_000) == 1.5e-5)
    for step: UInt64 in 4_000..<5_000 { #expect(schedule.rate(step) < schedule.rate(step - 1)) }
  }

  @Test("Without a warm-up, with nothing after it, and constant")
  func edges() {
    #expect(LearningRateSchedule(peak: 1, floor: 0, warmupSteps: 0, totalSteps: 1).rate(0) == 0)
    #expect(LearningRateSchedule(peak: 1, floor: 0.1, warmupSteps: 0, totalSteps: 100).rate(0) > 0.99)
    #expect(LearningRateSchedule(peak: 1, floor: 0.1, warmupSteps: 10, totalSteps: 10).rate(9) == 1)
    #expect(LearningRateSchedule(peak: 1, floor: 0.1, warmupSteps: 10, totalSteps: 10).rate(10) == 0.1)
    for step: UInt64 in [0, 1, 1 << 40] { #expect(LearningRateSchedule.constant(2).rate(step) == 2) }
  }
}

@Suite("Clipping")
struct ClipScaleTests {
  @Test("Scales down what is longer, leaves alone what is not")
  func scale() {
    #expect(ClipScale.scale(sumOfSquares: 0.81, limit: 1) == 1)
    #expect(ClipScale.scale(sumOfSquares: 0, limit: 1) == 1)
    #expect(abs(ClipScale.scale(sumOfSquares: 16, limit: 1) - 0.25) < 1e-6)
    #expect(ClipScale.scale(sumOfSquares: 16, limit: 1) == Float(1 / (4 + 1e-6)))
  }
}

@Suite("AdamW")
struct AdamWTests {
  @Test("Matrices decay, norms and biases only where the run says so")
  func decay() {
    var configuration = AdamWConfiguration()
    func decay(_ decays: Bool) -> Float {
      configuration.step(0, learningRate: 1, gradientScale: 1, decays: decays).weightDecay
    }
    #expect(decay(true) == 0.1 && decay(false) == 0)
    configuration.decayNormsAndBiases = true
    #expect(decay(true) == 0.1 && decay(false) == 0.1)
  }

  @Test("The corrections are those of step + 1 updates")
  func corrections() {
    let configuration = AdamWConfiguration()
    for step: UInt64 in [0, 1, 2, 9, 100, 249_999] {
      let update = configuration.step(step, learningRate: 1, gradientScale: 1, decays: true)
      #expect(abs(Double(update.correction1) - (1 - pow(0.9, Double(step + 1)))) < 1e-7)
      #expect(abs(Double(update.correction2) - (1 - pow(0.95, Double(step + 1)))) < 1e-7)
    }
  }

  @Test("Three updates by hand")
  func updates() throws {
    let device = ReferenceDevice()
    let tensors = try (0..<4).map { _ throws in try device.allocate(.float32, [2]) }
    device.upload([Float(1), -2], to: tensors[0])
    let configuration = AdamWConfiguration()
    var (p, m, v) = ([1.0, -2.0], [0.0, 0.0], [0.0, 0.0])
    for step: UInt64 in 0..<3 {
      let gradient: [Float] = [0.5, Float(step) - 1]
      device.upload(gradient, to: tensors[1])
      device.adamW(
        tensors[0], gradient: tensors[1], firstMoment: tensors[2], secondMoment: tensors[3], computeCopy: nil,
        configuration.step(step, learningRate: 0.01, gradientScale: 0.5, decays: true))
      for i in 0..<2 {
        let g = 0.5 * Double(gradient[i])
        p[i] *= 1 - 0.01 * 0.1
        m[i] = 0.9 * m[i] + 0.1 * g
        v[i] = 0.95 * v[i] + 0.05 * g * g
        let (c1, c2) = (1 - pow(0.9, Double(step + 1)), 1 - pow(0.95, Double(step + 1)))
        p[i] -= 0.01 * (m[i] / c1) / ((v[i] / c2).squareRoot() + 1e-8)
      }
    }
    for (found, expected) in zip(try device.floats(tensors[0]), p) { #expect(abs(Double(found) - expected) < 1e-6) }
  }
}
