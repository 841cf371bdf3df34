import Benchmarks
import Foundation
import Testing
import TransfusionModel

@Suite struct MatrixWorkTests {
  @Test(arguments: BenchmarkPreset.allCases)
  func syntheticMicrobatchesFitTheirModel(_ preset: BenchmarkPreset) throws {
    let model = preset.model(patches: 64)
    try model.validate()
    #expect(model.patchesPerImage == 64 && model.patchElements == 32)
    let batch = SyntheticMicrobatch.make(model, rows: 3, length: 300, seed: 7)
    try batch.validate(for: model, limits: MicrobatchLimits(rows: 3, length: 300, images: batch.images))
    #expect(batch.images == 6 && batch.patchPositions.count == 384)
    #expect(batch != SyntheticMicrobatch.make(model, rows: 3, length: 300, seed: 8))
  }

  /// The step that the benchmarks are about, counted by hand.
  @Test func workOfTheReferenceStep() {
    let model = BenchmarkPreset.b016.model(patches: 256)
    let batch = SyntheticMicrobatch.make(model, rows: 2, length: 1024, seed: 1)
    let work = MatrixWork(model, batch)
    let (width, feedForward, vocabulary) = (768, 2_048, 32_768)
    let perPosition: Int = 4 * width * width + 3 * width * feedForward
    let layers: Int = 6 * 2_048 * 16 * perPosition
    #expect(work.layers == Double(layers))
    // A row: the causal triangle, and the upper half of two images of 256.
    let triangle: Int = 1_024 * 1_025 / 2
    let pairs: Int = 2 * (triangle + 256 * 255)
    let attention: Int = 14 * pairs * width * 16
    #expect(work.attention == Double(attention))
    // 1,023 predictions a row, less the 512 patches, less what follows the last patch of each image.
    let targets: Int = 2 * (1_023 - 512 - 2)
    let head: Int = 6 * targets * width * vocabulary
    #expect(work.head == Double(head))
    #expect(abs(work.total - 1.75e12) < 0.01e12)
  }

  @Test func reportsAreTextAndJSON() throws {
    var report = BenchmarkReport(
      benchmark: "compute", environment: BenchmarkEnvironment(fingerprint: "cpu/test"), settings: [("rows", "2")])
    report.add("medianStepSeconds", 0.25, "step, median", unit: "s")
    report.add("ratio", .nan, "unknown")
    let object = try #require(JSONSerialization.jsonObject(with: Data(report.json().utf8)) as? [String: Any])
    #expect((object["figures"] as? [String: Double]) == ["medianStepSeconds": 0.25])
    #expect(object["fingerprint"] as? String == "cpu/test" && object["cores"] as? Int ?? 0 > 0)
    #expect(report.text.contains("step, median  0.250 s") && report.text.contains("rows 2"))
  }
}
