import ClusterModel
import Wire

/// How long workers take for a microbatch, measured in steady steps of one generation.
///
/// What a worker measured when it joined says little about a host that others use as well or whose clock has dropped:
/// leaves move, whole, to replicas that have shown to be faster.
struct WorkerPaces: Hashable, Sendable {
  struct Pace: Hashable, Sendable {
    /// Mean seconds of computation a microbatch; the newest steps count most.
    var seconds: Double
    var steps: Int
    /// The newest step's seconds by phase.
    var phases: PhaseSeconds
  }
  private(set) var paces: [WorkerID: Pace] = [:]

  /// Steps before paces are compared: the first ones of a generation are not steady.
  static let leastSteps = 8
  private static let newestWeight = 0.2

  mutating func record(_ phases: PhaseSeconds, of worker: WorkerID, microbatches: Int) {
    let seconds = (phases.forward + phases.backward) / Double(max(microbatches, 1))
    guard seconds.isFinite, seconds >= 0 else { return }
    guard var pace = paces[worker] else {
      paces[worker] = Pace(seconds: seconds, steps: 1, phases: phases)
      return
    }
    pace.seconds += (seconds - pace.seconds) * (pace.steps == 1 ? 1 : Self.newestWeight)
    pace.steps += 1
    pace.phases = phases
    paces[worker] = pace
  }

  /// Seconds of computation that a step takes with this division of the leaves; nil while not all paces are known.
  func stepSeconds(places: [[WorkerID]], leaves: [Range<Int>], shape: StepShape) -> Double? {
    var longest = 0.0
    for (replica, row) in places.enumerated() {
      let microbatches = shape.microbatches(ofLeaves: leaves[replica]).count
      for worker in row {
        guard let pace = paces[worker], pace.steps >= Self.leastSteps else { return nil }
        longest = max(longest, pace.seconds * Double(microbatches))
      }
    }
    return longest
  }

  /// Whole leaves, at least one each; every further one goes to the replica that would finish it first.
  func shareLeaves(places: [[WorkerID]], leaves: Int) -> [Range<Int>]? {
    var seconds: [Double] = []
    for row in places {
      var slowest = 0.0
      for worker in row {
        guard let pace = paces[worker], pace.steps >= Self.leastSteps else { return nil }
        slowest = max(slowest, pace.seconds)
      }
      seconds.append(slowest)
    }
    var counts = [Int](repeating: 1, count: places.count)
    for _ in places.count..<max(leaves, places.count) {
      guard
        let chosen = counts.indices.min(by: {
          Double(counts[$0] + 1) * seconds[$0] < Double(counts[$1] + 1) * seconds[$1]
        })
      else { return nil }
      counts[chosen] += 1
    }
    var start = 0
    return counts.map { count in
      defer { start += count }
      return start..<start + count
    }
  }
}

extension CoordinatorMachine {
  /// The worker for which the others wait most, by the time of its newest step that was not waiting, and what it spent
  /// most of it on.
  public var slowest: (worker: WorkerID, phase: String, seconds: Double)? {
    let busy = placed.compactMap { worker -> (worker: WorkerID, phases: PhaseSeconds)? in
      state.paces.paces[worker].map { (worker, $0.phases) }
    }
    guard busy.count > 1, let (worker, phases) = busy.max(by: { $0.phases.busy < $1.phases.busy }) else { return nil }
    let parts = [
      ("forward", phases.forward), ("backward", phases.backward), ("update", phases.update), ("data", phases.data),
      ("checkpoint", phases.checkpoint),
    ]
    return (worker, parts.max { $0.1 < $1.1 }?.0 ?? "", phases.busy)
  }

  /// Why leaves should move to other replicas: measured, the step would be shorter by ``CoordinatorMachineSettings/TimeLimits/leastShift``.
  mutating func reasonToShift() -> String? {
    guard let plan = state.plan, plan.replicaCount > 1, settings.limits.leastShift > 0,
      let now = state.paces.stepSeconds(places: plan.places, leaves: plan.replicaLeaves, shape: settings.shape),
      let leaves = state.paces.shareLeaves(places: plan.places, leaves: settings.shape.leaves),
      let then = state.paces.stepSeconds(places: plan.places, leaves: leaves, shape: settings.shape),
      then < now * (1 - settings.limits.leastShift)
    else { return nil }
    state.sharedLeaves = leaves
    let slow = slowest.map { name($0.worker) } ?? "a replica"
    return
      "\(slow) is slow: the replicas get \(leaves.map(\.count)) leaves instead of \(plan.replicaLeaves.map(\.count))"
  }
}

extension PhaseSeconds {
  /// All but waiting for others.
  var busy: Double { forward + backward + update + data + checkpoint }
}
