import ControlPlane
import Dispatch
import Foundation
import Simulation
import Testing

/// Runs seeds on all cores, one simulation a thread at a time.
private func results(_ seeds: Range<UInt64>, _ settings: SimulationSettings, most: Int = .max) -> [SimulationResult] {
  // Safe because every access is under `lock`.
  final class Shared: @unchecked Sendable {
    let lock = NSLock()
    var next: UInt64
    var results: [SimulationResult] = []
    var failures = 0
    init(next: UInt64) { self.next = next }
  }
  let shared = Shared(next: seeds.lowerBound)
  DispatchQueue.concurrentPerform(iterations: ProcessInfo.processInfo.activeProcessorCount) { _ in
    while true {
      let seed: UInt64? = shared.lock.withLock {
        guard shared.next < seeds.upperBound, shared.failures < most else { return nil }
        defer { shared.next += 1 }
        return shared.next
      }
      guard let seed else { return }
      let result = Simulation.run(seed: seed, settings: settings)
      shared.lock.withLock {
        shared.results.append(result)
        if result.violation != nil { shared.failures += 1 }
      }
    }
  }
  return shared.results.sorted { $0.seed < $1.seed }
}

@Suite("Simulated clusters") struct SimulationTests {
  @Test("300 seeds with 8 workers and 50 steps keep every invariant and end")
  func seeds() {
    let settings = SimulationSettings()
    for result in results(0..<300, settings) where result.violation != nil {
      Issue.record("\(Simulation.report(Simulation.shrink(result, settings: settings), settings: settings))")
    }
  }

  @Test("one worker, two workers, many workers")
  func sizes() {
    for workers in [1, 2, 13] {
      let settings = SimulationSettings(workers: workers, steps: 20)
      for result in results(0..<25, settings) where result.violation != nil {
        Issue.record("\(Simulation.report(Simulation.shrink(result, settings: settings), settings: settings))")
      }
    }
  }

  @Test("messages survive their bytes on the way")
  func encoded() {
    var settings = SimulationSettings(workers: 6, steps: 20)
    settings.encodesMessages = true
    for result in results(500..<530, settings) { #expect(result.violation == nil, "seed \(result.seed)") }
  }

  @Test("the same seed gives the same trace, traced or not")
  func deterministic() {
    let settings = SimulationSettings()
    for seed in 40..<50 as Range<UInt64> {
      let first = Simulation.run(seed: seed, settings: settings, isTraced: true)
      let second = Simulation.run(seed: seed, settings: settings, isTraced: true)
      #expect(first.trace == second.trace && !first.trace.isEmpty, "seed \(seed)")
      #expect(Simulation.run(seed: seed, settings: settings).fingerprint == first.fingerprint, "seed \(seed)")
    }
  }

  @Test("a fault put in on purpose is found", arguments: PlantedBug.all.indices)
  func planted(_ index: Int) {
    let (name, bug) = PlantedBug.all[index]
    var settings = SimulationSettings()
    settings.planted = bug
    let found = results(1..<6_000, settings, most: 1).first { $0.violation != nil }
    #expect(found != nil, "\(name) was not found")
    guard let found, let violation = found.violation else { return }
    print("planted: \(name): seed \(found.seed): \(violation.reason.prefix(160))")
  }

  @Test("a failure is made small, and still fails")
  func shrinking() throws {
    var settings = SimulationSettings()
    settings.planted = .wrongCopy
    let found = try #require(results(1..<6_000, settings, most: 1).first { $0.violation != nil })
    let small = Simulation.shrink(found, settings: settings)
    #expect(small.violation != nil && small.faults.count <= found.faults.count)
    let report = Simulation.report(small, settings: settings)
    #expect(report.contains("seed \(found.seed)") && report.contains("the last events"))
  }
}
