import ClusterModel
import Schedules

extension PlanProblem {
  /// Contiguous stages such that the slowest one is as fast as can be, among the cuts that fit everybody's
  /// memory: best[s][u] is the slowest of stages 0...s over the first u units.
  func cutUnits(mesh: [[WorkerCapacity]], leaves: [Range<Int>], schedules: [Schedule]) throws(PlanError)
    -> [Range<Int>]
  {
    let stages = mesh[0].count
    let alike = areAlike(mesh.flatMap { $0 })
    // All replicas are cut alike, so a stage is as fast as its workers together.
    let speed = (0..<stages).map { stage in alike ? 1 : mesh.reduce(0) { $0 + $1[stage].speed } }
    var flopsBefore = [0.0]
    for unit in units { flopsBefore.append(flopsBefore[flopsBefore.count - 1] + max(unit.forwardFlops, 1)) }

    struct Cut {
      var slowest: Double
      /// Breaks ties in favour of even stages.
      var squares: Double
      var start: Int
    }
    var best = [[Cut?]](repeating: Array(repeating: nil, count: units.count + 1), count: stages)
    for stage in 0..<stages {
      for end in (stage + 1)...(units.count - (stages - 1 - stage)) {
        for start in stage..<end {
          guard stage > 0 || start == 0 else { break }
          let before = stage == 0 ? Cut(slowest: 0, squares: 0, start: 0) : best[stage - 1][start]
          guard let before, fits(start..<end, stage: stage, mesh: mesh, leaves: leaves, schedules: schedules) else {
            continue
          }
          let seconds = (flopsBefore[end] - flopsBefore[start]) / speed[stage]
          let cut = Cut(
            slowest: max(before.slowest, seconds), squares: before.squares + seconds * seconds, start: start)
          if let old = best[stage][end], (old.slowest, old.squares) <= (cut.slowest, cut.squares) { continue }
          best[stage][end] = cut
        }
      }
    }
    var ranges: [Range<Int>] = []
    var end = units.count
    for stage in (0..<stages).reversed() {
      guard let cut = best[stage][end] else {
        throw tightest(mesh: mesh, leaves: leaves, schedules: schedules)
      }
      ranges.insert(cut.start..<end, at: 0)
      end = cut.start
    }
    return ranges
  }

  func estimateBytes(_ range: Range<Int>, stage: Int, replica: Int, replicas: Int, leaves: [Range<Int>], slots: Int)
    -> UInt64
  {
    let tree = LeafTree(leaves: leaves.last?.upperBound ?? 0)
    return memory.estimateBytes(
      units: units[range], slots: slots, replicas: replicas, sums: tree.mostSums(in: leaves[replica]))
  }

  private func fits(
    _ range: Range<Int>, stage: Int, mesh: [[WorkerCapacity]], leaves: [Range<Int>], schedules: [Schedule]
  ) -> Bool {
    mesh.indices.allSatisfy { replica in
      let bytes = estimateBytes(
        range, stage: stage, replica: replica, replicas: mesh.count, leaves: leaves,
        slots: schedules[replica].stages[stage].slots)
      return bytes <= mesh[replica][stage].memoryLimitBytes
    }
  }

  /// What stands in the way: an even cut by flops ignoring memory, and its most overfull worker.
  private func tightest(mesh: [[WorkerCapacity]], leaves: [Range<Int>], schedules: [Schedule]) -> PlanError {
    var unlimited = self
    unlimited.memory = MemoryModel()
    let roomy = mesh.map {
      $0.map { WorkerCapacity(worker: $0.worker, gigaflopsPerSecond: $0.speed, memoryLimitBytes: .max) }
    }
    let cut = (try? cutUnits(mesh: roomy, leaves: leaves, schedules: schedules)) ?? [0..<units.count]
    var worst: (excess: Double, error: PlanError)?
    for (replica, row) in mesh.enumerated() {
      for (stage, range) in cut.enumerated() where stage < row.count {
        let needs = estimateBytes(
          range, stage: stage, replica: replica, replicas: mesh.count, leaves: leaves,
          slots: schedules[replica].stages[stage].slots)
        let has = row[stage].memoryLimitBytes
        let excess = Double(needs) / Double(max(has, 1))
        if worst.map({ excess > $0.excess }) ?? true {
          worst = (
            excess,
            .notEnoughMemory(
              stages: row.count, workers: mesh.count * row.count, stage: stage, needsBytes: needs,
              worker: row[stage].worker, hasBytes: has)
          )
        }
      }
    }
    return worst?.error ?? .noWorkers
  }
}

extension PlanProblem {
  /// Numbers and sentences for a finished plan.
  func describe(
    _ plan: Plan, mesh: [[WorkerCapacity]], schedules: [Schedule], configured: Int?, left: [WorkerCapacity],
    tooSmall: [WorkerCapacity]
  ) -> PlanDecision {
    var estimates: [PlanDecision.Estimate] = []
    var slowestReplica = (seconds: 0.0, bubble: 0.0)
    for (replica, row) in mesh.enumerated() {
      var costs: [StageCost] = []
      for (stage, worker) in row.enumerated() {
        let flops = units[plan.stageUnits[stage]].reduce(0) { $0 + $1.forwardFlops }
        let seconds = flops / (worker.speed * 1e9)
        let slots = schedules[replica].stages[stage].slots
        costs.append(StageCost(forward: seconds, backward: seconds * memory.backwardOverForward))
        estimates.append(
          .init(
            worker: worker.worker, place: Place(replica: replica, stage: stage), slots: slots,
            memoryBytes: estimateBytes(
              plan.stageUnits[stage], stage: stage, replica: replica, replicas: mesh.count,
              leaves: plan.replicaLeaves, slots: slots),
            memoryLimitBytes: worker.memoryLimitBytes, forwardSeconds: seconds))
      }
      let timeline = schedules[replica].timeline(costs: costs)
      if timeline.duration > slowestReplica.seconds || replica == 0 {
        slowestReplica = (timeline.duration, timeline.bubbleFraction)
      }
    }
    return PlanDecision(
      plan: plan, estimates: estimates,
      reasons: reasons(plan, mesh: mesh, configured: configured, left: left, tooSmall: tooSmall),
      bubbleFraction: slowestReplica.bubble, stepSeconds: slowestReplica.seconds)
  }

  private func reasons(
    _ plan: Plan, mesh: [[WorkerCapacity]], configured: Int?, left: [WorkerCapacity], tooSmall: [WorkerCapacity]
  ) -> [String] {
    var reasons: [String] = []
    let stages = plan.stageCount
    switch configured {
    case nil: reasons.append("\(stages) \(stages == 1 ? "stage" : "stages"): the fewest that fit the workers' memory")
    case stages: reasons.append("\(stages) \(stages == 1 ? "stage" : "stages"), as configured")
    case .some(let wish):
      reasons.append("\(stages) stages instead of the configured \(wish): there are no more workers")
    }
    let replicas = plan.replicaCount
    reasons.append(
      replicas == shape.leaves
        ? "\(replicas) \(replicas == 1 ? "replica" : "replicas"): one for each leaf of the step, more cannot help"
        : "\(replicas) \(replicas == 1 ? "replica" : "replicas"): as many as the workers fill with \(stages) "
          + (stages == 1 ? "stage each" : "stages each"))
    let counts = plan.replicaLeaves.map(\.count)
    reasons.append(
      areAlike(mesh.flatMap { $0 })
        ? "leaves \(counts): the workers are about equally fast"
        : "leaves \(counts): in proportion to the replicas' speed")
    let total = units.reduce(0) { $0 + $1.forwardFlops }
    let shares = plan.stageUnits.map { range in
      Int((units[range].reduce(0) { $0 + $1.forwardFlops } / max(total, 1) * 100).rounded())
    }
    if stages > 1 {
      reasons.append("stages hold \(shares) percent of the work: the slowest stage is as fast as this model allows")
    }
    if !left.isEmpty {
      let names = left.map(\.worker).sorted().map { String($0.number) }.joined(separator: ", ")
      reasons.append("spare: worker \(names), because the mesh of \(replicas) x \(stages) is full")
    }
    for worker in tooSmall.sorted(by: { $0.worker < $1.worker }) {
      reasons.append(
        "spare: \(worker.worker), because \(ByteText.text(worker.memoryLimitBytes)) of memory are too little")
    }
    return reasons
  }
}
