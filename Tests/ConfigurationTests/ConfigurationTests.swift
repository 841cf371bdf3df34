import Configuration
import Foundation
import Testing

@Suite struct ConfigurationTests {
  static let minimal = "data:\n  directory: d\n"

  private func failure(_ text: String, overrides: [String] = []) -> String? {
    do throws(ConfigurationError) {
      _ = try RunConfiguration.parse(text, file: "run.yaml", overrides: overrides)
      return nil
    } catch {
      return error.description
    }
  }

  @Test func unknownKeysNameLineAndNearestKey() {
    #expect(
      failure("model:\n  layer: 3\n") == "run.yaml:2: unknown key 'model.layer'; did you mean 'model.layers'?")
    #expect(
      failure("optimizer:\n  beta1: 0.9\n  clipnorm: 1\n")
        == "run.yaml:3: unknown key 'optimizer.clipnorm'; did you mean 'optimizer.clip_norm'?")
    #expect(failure("modle:\n  layers: 3\n") == "run.yaml:1: unknown key 'modle'; did you mean 'model'?")
    #expect(
      failure("run:\n  sequence_length: 9\n")
        == "run.yaml:2: unknown key 'run.sequence_length'; did you mean 'data.sequence_length'?")
  }

  @Test func wrongTypesAndImpossibleValuesNameTheKey() {
    #expect(failure("model:\n  layers: many\n") == "run.yaml:2: model.layers must be an integer, not 'many'")
    #expect(
      failure("model:\n  layers: [1, 2]\n") == "run.yaml:2: model.layers must be a single value, not a list or section")
    #expect(failure("model: 3\n") == "run.yaml:1: model must be a section of keys, not a single value")
    #expect(failure("parallelism:\n\n  workers: 0\n") == "run.yaml:3: parallelism.workers: 0 is not in 1...65536")
    #expect(failure("optimizer:\n  beta1: nan\n") == "run.yaml:2: optimizer.beta1 must be a number, not 'nan'")
    #expect(
      failure("training:\n  precision: fp8\n")
        == "run.yaml:2: training.precision must be float32 or bfloat16, not 'fp8'")
    #expect(
      failure("training:\n  recompute: yes\n")
        == "run.yaml:2: training.recompute must be none, selective or full, not 'yes'")
    // As it was written before there were three.
    for (old, new) in [("true", "full"), ("false", "none"), ("selective", "selective")] {
      let configuration = try? RunConfiguration.parse(
        Self.minimal + "training:\n  recompute: \(old)\n", file: "run.yaml")
      #expect(configuration?.training.recompute.rawValue == new, "\(old)")
    }
  }

  @Test func brokenYAMLNamesTheLine() throws {
    let broken = try #require(failure("model:\n  layers: 3\n bad\n"))
    #expect(broken.hasPrefix("run.yaml:"))
    #expect(broken.contains("not valid YAML"))
    let twice = try #require(failure("model:\n  layers: 3\n  layers: 4\n"))
    #expect(twice.contains("layers"))
  }

  @Test func contradictionsNameBothKeys() throws {
    let heads = try #require(failure(Self.minimal + "model:\n  width: 100\n  heads: 3\n"))
    #expect(heads.contains("model.width") && heads.contains("model.heads"))
    let leaves = try #require(failure(Self.minimal + "batch:\n  microbatches: 6\n  leaves: 4\n"))
    #expect(leaves.contains("batch.leaves"))
    let image = try #require(failure("data:\n  directory: d\n  sequence_length: 32\n"))
    #expect(image.contains("does not fit"))
    #expect(try #require(failure("run:\n  steps: 3\n")).contains("data.directory is missing"))
  }

  @Test func overridesWinAndAreChecked() throws {
    let configuration = try RunConfiguration.parse(
      Self.minimal, file: "f", overrides: ["run.steps=7", "model.rope_theta=5e5", "training.precision=float32"])
    #expect(configuration.run.steps == 7)
    #expect(configuration.model.ropeTheta == 5e5)
    #expect(configuration.training.precision == .float32)
    #expect(failure(Self.minimal, overrides: ["run.step=7"])?.contains("did you mean 'run.steps'") == true)
    #expect(failure(Self.minimal, overrides: ["run.steps"]) == "--set run.steps: expected key.path=value")
  }

  @Test func theResolvedFileReadsBackToTheSameConfiguration() throws {
    var configuration = try RunConfiguration.parse(Self.minimal, file: "f")
    configuration.model.normEpsilon = 3e-6
    configuration.optimizer.peakLearningRate = 0.1 + 0.2
    configuration.data.directory = "a \"quoted\" \\ path: # 1"
    #expect(try RunConfiguration.parse(configuration.yaml, file: "again") == configuration)
  }

  @Test func everyKeyMatters() throws {
    // Each field's value must survive the round trip on its own: a field wired to another's storage would not.
    let keys = RunConfiguration.fields.map(\.key)
    #expect(Set(keys).count == keys.count)
    let text = try RunConfiguration.parse(Self.minimal, file: "f").yaml
    #expect(text.split(separator: "\n").filter { $0.hasPrefix("  ") }.count == keys.count)
  }

  @Test func identityIgnoresTopologyAndNamesDifferences() throws {
    let a = try RunConfiguration.parse(Self.minimal, file: "f")
    let b = try RunConfiguration.parse(
      Self.minimal, file: "f", overrides: ["parallelism.workers=4", "checkpoint.every=5"])
    let c = try RunConfiguration.parse(Self.minimal, file: "f", overrides: ["model.layers=5"])
    #expect(a.identity == b.identity)
    #expect(RunConfiguration.differences(between: c.identity, and: a.identity) == ["model.layers (5, was 4)"])
  }

  @Test func lossSpikesAreOffAndLeaveTheIdentityOfOlderRunsAlone() throws {
    let plain = try RunConfiguration.parse(Self.minimal, file: "f")
    #expect(plain.faults.lossSpikeWindow == 0)
    #expect(!plain.identity.contains("faults."))
    let watched = try RunConfiguration.parse(
      Self.minimal + "faults:\n  loss_spike_window: 50\n  loss_spike_deviations: 6\n", file: "f")
    #expect(watched.faults.lossSpikeWindow == 50 && watched.faults.lossSpikeDeviations == 6)
    #expect(watched.identity.contains("faults.loss_spike_window=50\nfaults.loss_spike_deviations=6"))
    #expect(failure(Self.minimal + "faults:\n  loss_spike_window: 7\n")?.contains("at least 8") == true)
    #expect(failure("faults:\n  loss_spike_deviations: 0\n")?.contains("is not in 1.0...1000000.0") == true)
  }

  @Test(arguments: [
    "quickstart", "transfusion-0.16b", "transfusion-0.37b", "transfusion-0.76b", "transfusion-1.4b",
    "transfusion-7b-2t",
  ])
  func shippedConfigurationsAreValid(_ name: String) throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    _ = try RunConfiguration.load(file: root.appending(path: "configs/\(name).yaml").path)
  }
}

@Suite struct ConfigurationReferenceTests {
  /// docs/configuration.md holds what `transfusion configuration keys` prints.
  @Test func theDocumentedKeysAreTheRealOnes() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    let text = try String(contentsOf: root.appending(path: "docs/configuration.md"), encoding: .utf8)
    #expect(text.contains(RunConfiguration.reference), "run ops/document-configuration")
  }
}
