import ArgumentParser
import Benchmarks
import Foundation

/// `transfusion bench recovery`.
struct BenchRecoveryCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "recovery",
    abstract: "How soon training goes on after a death, how soon a worker takes part, and what that costs.",
    discussion: """
      Faults are brought about in a run of a tiny model of two workers, whose step is a fraction of a second. The cost \
      of heartbeats, journal and copies is that of a run of the model that is asked for here, to which nothing happens.
      """)

  @OptionGroup var model: BenchModelOptions
  @Option(help: "Times that each fault is brought about.")
  var rounds = 3
  @Option(help: "Runs with and without copies, alternating; 0 measures faults alone.")
  var pairs = 2
  @Option(help: "Steps that are measured in each of these runs, after two that are not.")
  var steps = 20
  @OptionGroup var output: BenchOutputOptions

  func validate() throws {
    try atLeastOne(("--rounds", rounds))
    if pairs < 0 { throw ValidationError("--pairs is \(pairs); it must not be negative") }
    let least = RecoveryBenchmark.leastSteps
    if steps < least {
      throw ValidationError("--steps is \(steps); with fewer than \(least) no copies use memory again")
    }
  }

  func run() throws {
    let benchmark = RecoveryBenchmark(
      rounds: rounds, model: model.value, pairs: pairs, steps: steps)
    try output.measure { try benchmark.run(scope: $0, progress: $1) }
  }
}
