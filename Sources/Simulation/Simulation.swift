import ControlPlane

/// Runs seeds, and makes a failure small.
public enum Simulation {
  /// One seed from its first event to its end.
  public static func run(seed: UInt64, settings: SimulationSettings, isTraced: Bool = false) -> SimulationResult {
    SimulatedCluster(Scenario(seed: seed, settings: settings), isTraced: isTraced).run()
  }

  /// Leaves out one fault after the other while the run still fails: what is left is needed.
  public static func shrink(_ failure: SimulationResult, settings: SimulationSettings) -> SimulationResult {
    var scenario = Scenario(seed: failure.seed, settings: settings)

    var isSmaller = true
    while isSmaller {
      isSmaller = false
      for index in scenario.faults.indices.reversed() {
        var candidate = scenario
        candidate.faults.remove(at: index)
        let result = SimulatedCluster(candidate).run()
        guard result.violation != nil else { continue }
        scenario = candidate

        isSmaller = true
      }
    }
    return SimulatedCluster(scenario, isTraced: true).run()
  }

  /// What a user needs of a failure: the seed, what is needed for it, and the last that happened.
  public static func report(_ result: SimulationResult, settings: SimulationSettings, lines: Int = 60) -> String {
    guard let violation = result.violation else { return "seed \(result.seed): no violation" }
    var text = "seed \(result.seed) at \(VirtualTime.text(violation.time)): \(violation.reason)\n"
    text +=
      "again: transfusion simulate --seed \(result.seed) --workers \(settings.workers) --steps \(settings.steps) --trace\n"
    text += result.faults.isEmpty ? "it needs no fault\n" : "it needs these faults:\n"
    for fault in result.faults { text += "  \(fault)\n" }
    text += "the last events:\n"
    for line in result.trace.suffix(lines) { text += "  \(line)\n" }
    return text
  }
}
