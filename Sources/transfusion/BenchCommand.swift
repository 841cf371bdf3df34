import ArgumentParser
import Benchmarks
import Foundation
import TransfusionModel

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measures this build on this machine.",
    discussion: """
      Figures are worth something as ratios of things measured alternately in one run on a machine that does nothing \
      else: `ops/bench` does that, and docs/performance.md has its results.
      """,
    subcommands: [BenchComputeCommand.self])
}

/// How a benchmark's report is shown.
struct BenchOutputOptions: ParsableArguments {
  @Flag(help: "Print one JSON object instead of text.")
  var json = false

  func show(_ report: BenchmarkReport) throws { print(json ? try report.json() : report.text) }
}

/// `transfusion bench compute`.
struct BenchComputeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compute",
    abstract: "One worker's training step: tokens per second, memory, and the step over its matrix products' floor.")

  @Option(help: "tiny, small, 0.16B, 0.37B or 0.76B.")
  var preset: BenchmarkPreset = .b016
  @Option(help: "Rows of the microbatch.")
  var rows = 2
  @Option(help: "Elements of a row.")
  var length = 1024
  @Option(help: "Patches of an image; a square number, at most half of --length.")
  var patches = 256
  @Option(help: "float32 or bfloat16.")
  var precision: VerifyPrecision = .bfloat16
  @Option(help: "Compute threads.")
  var threads = ProcessInfo.processInfo.activeProcessorCount
  @Option(help: "Steps that are measured, after two that are not.")
  var steps = 5
  @Flag(help: "Keep each compute thread on one processor.")
  var pin = false
  @Flag(help: "Keep only the layers' inputs and recompute the rest in the backward pass.")
  var recompute = false
  @Flag(help: "Show the seconds of each part of the step, and the speed of its products.")
  var phases = false
  @OptionGroup var output: BenchOutputOptions

  func validate() throws {
    for (name, value) in [("--rows", rows), ("--length", length), ("--threads", threads), ("--steps", steps)]
    where value < 1 {
      throw ValidationError("\(name) is \(value); it must be at least 1")
    }
    let side = Int(Double(max(patches, 0)).squareRoot().rounded())
    if patches < 4 || side * side != patches {
      throw ValidationError("--patches is \(patches); it must be a square number from 4 on")
    }
    if 2 * patches > length { throw ValidationError("--patches is \(patches); a row of \(length) holds no such image") }
  }

  func run() throws {
    var benchmark = ComputeBenchmark(
      preset: preset, rows: rows, length: length, patches: patches, precision: precision.value, threads: threads,
      steps: steps)
    benchmark.pin = pin
    benchmark.recompute = recompute
    benchmark.phases = phases
    try output.show(benchmark.run())
  }
}

extension BenchmarkPreset: ExpressibleByArgument {}
