import ArgumentParser
import ControlPlane
import Dispatch
import Foundation
import Simulation

/// `transfusion simulate`.
struct SimulateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "simulate",
    abstract: "Run the control plane against faults of every kind, in virtual time.",
    discussion: """
      The machines of coordinator and workers run in one thread with a virtual clock, network and disk; the seed decides \
      what goes wrong. Every seed must end with the undisturbed run's result. See docs/simulation.md.
      """)

  @Option(help: "The first seed.")
  var seed: UInt64 = 1
  @Option(help: "How many seeds.")
  var seeds: UInt64 = 1
  @Option(help: "Workers from the start.")
  var workers = 8
  @Option(help: "Steps of the run.")
  var steps: UInt64 = 50
  @Option(help: "Go on with further seeds for so long, instead of --seeds.")
  var minutes: Double?
  @Flag(help: "Print all that happens with the first seed.")
  var trace = false
  @Flag(help: "Send each message through its bytes.")
  var encode = false
  @Flag(help: .hidden)
  var planted = false

  func validate() throws {
    guard (1...200).contains(workers) else { throw ValidationError("--workers is \(workers); it must be in 1...200") }
    guard (1...100_000).contains(steps) else { throw ValidationError("--steps is \(steps); it must be in 1...100000") }
    guard seeds > 0, seed <= .max - seeds else { throw ValidationError("--seeds must be at least 1") }
    if let minutes, !(minutes > 0) { throw ValidationError("--minutes must be positive") }
  }

  private var settings: SimulationSettings {
    var settings = SimulationSettings(workers: workers, steps: steps)
    settings.encodesMessages = encode
    return settings
  }

  func run() throws {
    if trace {
      let result = Simulation.run(seed: seed, settings: settings, isTraced: true)
      for line in result.trace { print(line) }
      if let violation = result.violation { throw SimulationFailure(text: "seed \(seed): \(violation.reason)") }
      return
    }
    if planted { return try findPlanted() }
    let summary = SeedRun(settings: settings, from: seed, count: minutes == nil ? seeds : .max - seed, minutes: minutes)
      .run()
    print(summary.text)
    guard let failure = summary.failures.min(by: { $0.faults.count < $1.faults.count }) else { return }
    for failure in summary.failures { print("seed \(failure.seed): \(failure.violation?.reason ?? "")") }
    print(Simulation.report(Simulation.shrink(failure, settings: settings), settings: settings), terminator: "")
    throw SimulationFailure(text: "\(summary.failures.count) of \(summary.seeds) seeds failed")
  }

  /// The first seed that finds each fault that can be put in on purpose.
  private func findPlanted() throws {
    var missed: [String] = []
    for (name, bug) in PlantedBug.all {
      var settings = settings
      settings.planted = bug
      let summary = SeedRun(
        settings: settings, from: seed, count: max(seeds, 10_000), minutes: minutes, mostFailures: 1
      )
      .run()
      guard let failure = summary.failures.min(by: { $0.seed < $1.seed }) else {
        missed.append(name)
        continue
      }
      print("\(name): seed \(failure.seed), \(summary.seeds) seeds: \(failure.violation?.reason.prefix(120) ?? "")")
    }
    if !missed.isEmpty { throw SimulationFailure(text: "not found: \(missed.joined(separator: ", "))") }
  }
}

/// A simulation found something.
struct SimulationFailure: Error, CustomStringConvertible {
  var text: String
  var description: String { text }
}

/// Seeds on all cores, one simulation a thread at a time.
private struct SeedRun {
  var settings: SimulationSettings
  var from: UInt64
  var count: UInt64
  var minutes: Double?
  var mostFailures = 8

  struct Summary {
    var seeds: UInt64 = 0
    var failures: [SimulationResult] = []
    var events = 0
    var virtualMicroseconds: UInt64 = 0
    var seconds = 0.0
    var text: String {
      let rate = Double(seeds) / max(seconds, 1e-9) * 60
      let virtual = Double(virtualMicroseconds) / 1e6 / Double(max(seeds, 1))
      return String(
        format: "%llu seeds, %d failures, %.1f s, %.0f seeds a minute, %d events and %.1f virtual seconds a seed",
        seeds,
        failures.count, seconds, rate, events / Int(max(seeds, 1)), virtual)
    }
  }

  // Safe because every access is under `lock`.
  private final class Shared: @unchecked Sendable {
    let lock = NSLock()
    var next: UInt64 = 0
    var summary = Summary()
  }

  func run() -> Summary {
    let shared = Shared()
    let began = ContinuousClock.now
    let end = minutes.map { began + .seconds($0 * 60) }
    DispatchQueue.concurrentPerform(iterations: ProcessInfo.processInfo.activeProcessorCount) { _ in
      while true {
        let seed: UInt64? = shared.lock.withLock {
          guard shared.next < count, shared.summary.failures.count < mostFailures, end.map({ .now < $0 }) ?? true else {
            return nil
          }
          defer { shared.next += 1 }
          return from + shared.next
        }
        guard let seed else { return }
        let result = Simulation.run(seed: seed, settings: settings)
        shared.lock.withLock {
          shared.summary.seeds += 1
          shared.summary.events += result.events
          shared.summary.virtualMicroseconds += result.virtualMicroseconds
          if result.violation != nil { shared.summary.failures.append(result) }
        }
      }
    }
    shared.summary.seconds = (ContinuousClock.now - began) / .seconds(1)
    shared.summary.failures.sort { $0.seed < $1.seed }
    return shared.summary
  }
}
