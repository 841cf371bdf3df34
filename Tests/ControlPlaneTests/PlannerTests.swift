import ClusterModel
import ControlPlane
import Schedules
import Testing

/// `count` layers between a light input and a heavy output.
func someUnits(layers: Int = 6, output: Double = 2e9) -> [CostUnit] {
  [CostUnit(name: "input", forwardFlops: 1e8, parameterCount: 1000, activationBytes: 1 << 20)]
    + (0..<layers).map {
      CostUnit(name: "layer \($0)", forwardFlops: 1e9, parameterCount: 1_000_000, activationBytes: 8 << 20)
    }
    + [CostUnit(name: "output", forwardFlops: output, parameterCount: 1_000_000, activationBytes: 1 << 20)]
}

func alike(_ count: Int, gigabytes: UInt64 = 8) -> [WorkerCapacity] {
  (0..<count).map {
    WorkerCapacity(worker: WorkerID(UInt32($0 + 1)), gigaflopsPerSecond: 100, memoryLimitBytes: gigabytes << 30)
  }
}

@Suite("Planner") struct PlannerTests {
  let shape = StepShape(microbatches: 8, leaves: 4)

  private func plan(
    _ workers: [WorkerCapacity], stages: Int?, units: [CostUnit] = someUnits(), shape: StepShape? = nil,
    memory: MemoryModel = MemoryModel()
  ) throws(PlanError) -> PlanDecision {
    try Planner.plan(
      units: units, workers: workers, stages: stages, shape: shape ?? self.shape, schedule: .oneForwardOneBackward,
      memory: memory)
  }
  private func refusal(_ workers: [WorkerCapacity], stages: Int?, memory: MemoryModel = MemoryModel()) -> PlanError? {
    do throws(PlanError) {
      _ = try plan(workers, stages: stages, memory: memory)
      return nil
    } catch { return error }
  }

  @Test("every plan covers units and leaves once, in order, and places each worker once") func covers() throws {
    for workers in 1...9 {
      for stages in [nil, 1, 2, 3, 8] as [Int?] {
        let decision = try plan(alike(workers), stages: stages)
        let plan = decision.plan
        #expect(plan.stageUnits.flatMap { Array($0) } == Array(0..<8))
        #expect(plan.replicaLeaves.flatMap { Array($0) } == Array(0..<4))
        #expect(plan.replicaLeaves.allSatisfy { !$0.isEmpty })
        let placed = plan.places.flatMap { $0 } + plan.spares
        #expect(placed.sorted() == alike(workers).map(\.worker))
        #expect(plan.places.allSatisfy { $0.count == plan.stageCount })
        #expect(decision.estimates.count == plan.replicaCount * plan.stageCount)
        #expect(!decision.reasons.isEmpty)
      }
    }
  }

  @Test("the cut minimises the slowest stage: the heavy output gets fewer layers") func cutByCost() throws {
    let decision = try plan(alike(2), stages: 2)
    // 0.1 + 4 against 2 + 2 GFLOP.
    #expect(decision.plan.stageUnits == [0..<5, 5..<8])
  }

  @Test("the cut is the best of all cuts") func cutIsOptimal() throws {
    var flops: [Double] = []
    var state: UInt64 = 7
    for _ in 0..<9 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      flops.append(Double(state >> 40) + 1)
    }
    let units = flops.map { CostUnit(name: "u", forwardFlops: $0, parameterCount: 1, activationBytes: 1) }
    let found = try plan(alike(3), stages: 3, units: units).plan.stageUnits
    func slowest(_ ranges: [Range<Int>]) -> Double { ranges.map { flops[$0].reduce(0, +) }.max() ?? 0 }
    var best = Double.infinity
    for first in 1...7 {
      for second in (first + 1)...8 { best = min(best, slowest([0..<first, first..<second, second..<9])) }
    }
    #expect(slowest(found) == best)
  }

  @Test("a replica of twice the speed gets twice the leaves") func leavesBySpeed() throws {
    var workers = alike(2)
    workers[1].gigaflopsPerSecond = 300
    let decision = try plan(workers, stages: 1)
    #expect(decision.plan.places == [[WorkerID(2)], [WorkerID(1)]])
    #expect(decision.plan.replicaLeaves == [0..<3, 3..<4])
  }

  @Test("speeds that differ by measuring noise change nothing") func noise() throws {
    var workers = alike(2)
    workers[1].gigaflopsPerSecond = 110
    #expect(try plan(workers, stages: 1).plan == plan(alike(2), stages: 1).plan)
  }

  @Test("workers beyond replicas x leaves are spares, and the reasons say so") func spares() throws {
    let decision = try plan(alike(6), stages: 1)
    #expect(decision.plan.replicaCount == 4)
    #expect(decision.plan.spares == [WorkerID(5), WorkerID(6)])
    #expect(decision.reasons.contains { $0.contains("spare: worker 5, 6") })
  }

  @Test("stages that do not divide the workers leave spares; more stages than workers become fewer")
  func notDividing() throws {
    let odd = try plan(alike(5), stages: 2)
    #expect(odd.plan.replicaCount == 2 && odd.plan.spares == [WorkerID(5)])
    let few = try plan(alike(1), stages: 2)
    #expect(few.plan.stageCount == 1)
    #expect(few.reasons.contains { $0.contains("instead of the configured 2") })
  }

  @Test("without configured stages the fewest that fit memory are taken") func stagesByMemory() throws {
    #expect(try plan(alike(4), stages: nil).plan.stageCount == 1)
    let small = alike(4).map {
      WorkerCapacity(worker: $0.worker, gigaflopsPerSecond: 100, memoryLimitBytes: 90 << 20)
    }
    var memory = MemoryModel()
    memory.fixedBytes = 0
    let units = someUnits().map {
      CostUnit(
        name: $0.name, forwardFlops: $0.forwardFlops, parameterCount: $0.parameterCount, activationBytes: 1 << 20)
    }
    let decision = try plan(small, stages: nil, units: units, memory: memory)
    #expect(decision.plan.stageCount > 1)
    #expect(decision.estimates.allSatisfy { $0.memoryBytes <= $0.memoryLimitBytes })
  }

  @Test("one live microbatch that is a leaf has its gradients where its activations were") func passingGradients() {
    var memory = MemoryModel()
    memory.fixedBytes = 0
    func bytes(_ activations: [Int], slots: Int) -> UInt64 {
      memory.estimateBytes(
        units: activations.map { CostUnit(name: "", forwardFlops: 1, parameterCount: 25, activationBytes: $0) },
        slots: slots, replicas: 1, sums: 1)
    }
    let shapes = [[100, 100, 100], [300, 0, 0], [0, 0, 300], [10, 10, 10], [1_000, 1_000, 1_000]]
    let separate = shapes.map { bytes($0, slots: 1) }
    memory.leavesAreMicrobatches = true
    // Gradients of 100 bytes a unit. Of what remains to be read, a unit's own activations are the last.
    #expect(zip(separate, shapes).map { $0 - bytes($1, slots: 1) } == [200, 0, 200, 20, 200])
    #expect(shapes.map { bytes($0, slots: 2) } == zip(separate, shapes).map { $0 + UInt64($1.reduce(0, +)) })
  }

  @Test("a worker whose memory is too small becomes a spare when the others can do it") func tooSmall() throws {
    var workers = alike(3)
    workers[0].memoryLimitBytes = 1 << 20
    let decision = try plan(workers, stages: 1)
    #expect(decision.plan.spares == [WorkerID(1)])
    #expect(decision.reasons.contains { $0.contains("worker 1, because 1.0 MiB") })
  }

  @Test("impossible wishes are refused with the numbers") func refusals() {
    #expect(refusal([], stages: 1) == .noWorkers)
    #expect(refusal(alike(2), stages: 0) == .notPositive(stages: 0))
    #expect(refusal(alike(2), stages: 9) == .moreStagesThanUnits(stages: 9, units: 8))
    var memory = MemoryModel()
    memory.fixedBytes = 9 << 30
    guard case .notEnoughMemory(_, 2, _, let needs, _, let has) = refusal(alike(2), stages: nil, memory: memory) else {
      Issue.record("expected a memory refusal")
      return
    }
    #expect(needs > 9 << 30 && has == 8 << 30)
  }

  @Test("the report shows stages, workers, grid, bubble and reasons") func report() throws {
    let decision = try plan(alike(5), stages: 2)
    let text = PlanReport.render(
      decision, units: someUnits(), shape: shape, tokensPerStep: 8192, totalSteps: 1000, host: { "host\($0.number)" })
    for part in [
      "2 replicas x 2 stages, 1f1b", "input ... layer 3", "3 (host3)", "spare: worker 5", "stage 0 | F0 F1",
      "Bubble 19", "8,192,000 tokens", "Why",
    ] {
      #expect(text.contains(part), "\(part) in\n\(text)")
    }
  }
}
