import Compute
import Foundation
import ModelVerification
import Testing
import TransfusionModel

/// Files of make_reference.py (transformers, diffusers, PyTorch in float64), stored without chunks:
/// plain: --layers 2 --hidden 16 --heads 2 --kv-heads 2 --intermediate 40 --vocab 48 --latent-size 8 --patch 2
///   --length 64 --batch 2 --seed 3
/// grouped: --layers 3 --hidden 8 --heads 2 --kv-heads 1 --intermediate 24 --vocab 40 --latent-size 8 --patch 4
///   --length 48 --batch 3 --seed 5
/// single: --layers 1 --hidden 12 --heads 6 --kv-heads 2 --intermediate 20 --vocab 32 --latent-size 4 --patch 1
///   --length 72 --batch 1 --seed 9
enum Fixture: String, CaseIterable {
  case plain, grouped, single

  func open() throws -> ReferenceFile {
    let url = try #require(Bundle.module.url(forResource: rawValue, withExtension: "h5", subdirectory: "Fixtures"))
    return try ReferenceFile(url.path)
  }
}

@Suite("The model against PyTorch")
struct ReferenceFileTests {
  /// Two tolerances are wider than 1e-6, neither for a reason of ours. In 3 of its 128 timestep frequencies
  /// PyTorch's vectorised float32 exp is one unit off the correctly rounded value, which moves that column of
  /// the sinusoids by up to 3e-5 and with it the timestep MLP's gradients (with PyTorch's three values here, they
  /// agree to 1e-6 too). AdamW turns an error of a
  /// gradient near its epsilon of 1e-8 into one of up to a learning rate (3e-4) in the parameter.
  static func limit(_ group: String, _ tensor: String) -> Double {
    if group.hasPrefix("parameters") { return 2e-5 }
    return group == "gradients" && tensor.hasPrefix("time_embedding") ? 3e-5 : 1e-6
  }

  @Test("The specification agrees to 1e-6", arguments: Fixture.allCases)
  func specification(_ fixture: Fixture) throws {
    let groups = try ModelVerification.run(fixture.open(), options: .init(), device: ReferenceDevice())
    #expect(
      groups.map(\.name) == [
        "hidden states", "logits", "epsilon", "losses", "gradients", "parameters after step 1",
        "parameters after step 2", "parameters after step 3",
      ])
    for group in groups {
      for entry in group.tensors {
        #expect(entry.error <= Self.limit(group.name, entry.tensor), "\(group.name): \(entry.tensor)")
      }
    }
  }

  @Test(
    "The CPU device agrees to 1e-4 in float32, however the model is cut", arguments: Fixture.allCases, [1, 2, 3])
  func cpu(_ fixture: Fixture, stages: Int) throws {
    let groups = try ModelVerification.run(
      fixture.open(), options: .init(stages: stages, recompute: Recompute.allCases[stages % 3]),
      device: CPUDevice(threads: stages))
    for group in groups { #expect(group.error <= 1e-4, "\(group.name): \(group.worst)") }
  }

  @Test("bfloat16 stays near the reference", arguments: Fixture.allCases)
  func bfloat16(_ fixture: Fixture) throws {
    let groups = try ModelVerification.run(
      fixture.open(), options: .init(precision: .bfloat16), device: CPUDevice(threads: 2))
    for group in groups {
      #expect(group.error <= (group.name == "losses" ? 0.01 : 0.1), "\(group.name): \(group.worst)")
    }
  }

  @Test("A file that is not a reference is an error that names it")
  func notAReference() throws {
    let file = FileManager.default.temporaryDirectory.appendingPathComponent("not-a-reference-\(UUID()).h5")
    try Data("nothing".utf8).write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    let error = #expect(throws: (any Error).self) { try ReferenceFile(file.path) }
    #expect(String(describing: error).contains(file.lastPathComponent))
  }
}
