import ArgumentParser
import Compute
import Foundation
import ModelVerification
import TransfusionModel

struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify", abstract: "Compares this build's numbers with PyTorch's.",
    subcommands: [VerifyModelCommand.self])
}

/// `transfusion verify model FILE.h5`.
struct VerifyModelCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "model",
    abstract: "Runs a file of make_reference.py through the compute core and prints the errors per group.",
    discussion: """
      An error is the largest difference within a tensor relative to the largest magnitude of the reference's \
      tensor (of all of them for updated parameters); a group shows its worst tensor. Exits with 1 when a group is \
      above the tolerance.
      """)

  enum DeviceChoice: String, ExpressibleByArgument, CaseIterable { case cpu, reference }

  @Argument(help: "A file made by make_reference.py.", completion: .file(extensions: ["h5"]))
  var file: String
  @Option(help: "cpu: the device that training uses. reference: its specification, float64 loops.")
  var device: DeviceChoice = .cpu
  @Option(help: "float32 or bfloat16.")
  var precision: VerifyPrecision = .float32
  @Option(help: "Stages that the model is cut into, in this process.")
  var stages = 1
  @Option(help: "What the backward pass makes again instead of keeping it: none, selective or full.")
  var recompute = Recompute.nothing
  @Option(help: "Threads of the cpu device.")
  var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(help: "Largest error that passes. [default: 1e-4, in bfloat16 0.1]")
  var tolerance: Double?

  func validate() throws {
    if stages < 1 { throw ValidationError("--stages is \(stages); it must be at least 1") }
    if threads < 1 { throw ValidationError("--threads is \(threads); it must be at least 1") }
    if let tolerance, !(tolerance > 0) { throw ValidationError("--tolerance is \(tolerance); it must be positive") }
  }

  func run() throws {
    let reference = try ReferenceFile(file)
    let units = reference.configuration.unitCount
    if stages > units {
      throw ValidationError("--stages is \(stages); the model in \(file) can be cut into at most \(units)")
    }
    let groups = try ModelVerification.run(
      reference, options: .init(precision: precision.value, stages: stages, recompute: recompute),
      device: try makeDevice())
    let limit = tolerance ?? (precision == .float32 ? 1e-4 : 0.1)
    let width = groups.map(\.name.count).max() ?? 0
    for group in groups {
      let name = group.name.padding(toLength: width, withPad: " ", startingAt: 0)
      let verdict = group.error <= limit ? "ok  " : "FAIL"
      print(
        "\(verdict)  \(name)  \(String(format: "%.1e", group.error))  worst of \(group.tensors.count): \(group.worst)")
    }
    let failed = groups.count { !($0.error <= limit) }
    if failed > 0 {
      print("\(failed) of \(groups.count) groups are above \(limit)")
      throw ExitCode(1)
    }
    print("\(file): all \(groups.count) groups within \(limit)")
  }

  private func makeDevice() throws -> any Device {
    switch device {
    case .cpu: try CPUDevice(threads: threads)
    case .reference: ReferenceDevice()
    }
  }
}

/// `Precision` as an argument.
enum VerifyPrecision: String, ExpressibleByArgument, CaseIterable {
  case float32, bfloat16
  var value: Precision {
    switch self {
    case .float32: .float32
    case .bfloat16: .bfloat16
    }
  }
}
