import ClusterModel
import Schedules

/// A plan with the numbers and the reasons behind it.
public struct PlanDecision: Hashable, Sendable {
  /// What is expected of one worker that has a place.
  public struct Estimate: Hashable, Sendable {
    public var worker: WorkerID
    public var place: Place
    public var slots: Int
    public var memoryBytes: UInt64
    public var memoryLimitBytes: UInt64
    /// Seconds of one microbatch's forward pass at the measured speed.
    public var forwardSeconds: Double
  }
  public var plan: Plan
  /// In rank order.
  public var estimates: [Estimate]
  /// One sentence a decision.
  public var reasons: [String]
  /// Of the replica with most microbatches; 0 ... 1.
  public var bubbleFraction: Double
  /// Computation of one step at the measured speeds, without communication and optimizer.
  public var stepSeconds: Double
}

extension PlanDecision {
  /// The same mesh with every worker moved by so many places: others compute what each did.
  func rotated(by places: Int) -> PlanDecision {
    let ranked = plan.places.flatMap { $0 }
    let shift = ranked.isEmpty ? 0 : places % ranked.count
    guard shift > 0 else { return self }
    var decision = self
    let moved = ranked[shift...] + ranked[..<shift]
    let stages = plan.stageCount
    decision.plan.places = (0..<plan.replicaCount).map { replica in
      Array(moved.dropFirst(replica * stages).prefix(stages))
    }
    return decision
  }
}

/// Decides who computes what. Pure: the same input gives the same plan on every machine.
public enum Planner {
  /// Speeds that differ by less than this count as equal: measuring is not more exact.
  static let speedTolerance = 0.15

  /// The mesh, the cut and the leaves for the given workers.
  ///
  /// - Parameter stages: as configured; nil chooses the fewest stages that fit the workers' memory.
  /// - Throws: ``PlanError`` when there is no worker or no cut fits.
  public static func plan(
    units: [CostUnit], workers: [WorkerCapacity], stages: Int?, shape: StepShape, schedule: ScheduleKind,
    memory: MemoryModel
  ) throws(PlanError) -> PlanDecision {
    guard !workers.isEmpty else { throw .noWorkers }
    guard !units.isEmpty else { throw .noUnits }
    if let stages {
      guard stages > 0 else { throw .notPositive(stages: stages) }
      guard stages <= units.count else { throw .moreStagesThanUnits(stages: stages, units: units.count) }
    }
    let problem = PlanProblem(units: units, shape: shape, schedule: schedule, memory: memory)
    var failure = PlanError.noWorkers
    // First with everybody; then without those whose memory is smallest, one size after the other.
    for floor in Set(workers.map(\.memoryLimitBytes)).sorted() {
      let usable = workers.filter { $0.memoryLimitBytes >= floor }
      let tooSmall = workers.filter { $0.memoryLimitBytes < floor }
      let candidates = stages.map { [min($0, usable.count)] } ?? Array(1...min(usable.count, units.count))
      for count in candidates {
        do throws(PlanError) {
          return try problem.solve(stages: count, configured: stages, workers: usable, tooSmall: tooSmall)
        } catch {
          // The report is about the attempt with everybody and most stages.
          if tooSmall.isEmpty { failure = error }
        }
      }
    }
    throw failure
  }
}

/// One planning question, apart from the number of stages and the set of workers.
struct PlanProblem {
  var units: [CostUnit]
  var shape: StepShape
  var schedule: ScheduleKind
  var memory: MemoryModel

  func solve(stages: Int, configured: Int?, workers: [WorkerCapacity], tooSmall: [WorkerCapacity])
    throws(PlanError) -> PlanDecision
  {
    let replicas = max(1, min(workers.count / stages, shape.leaves))
    let ordered = inOrder(workers)
    let mesh = (0..<replicas).map { replica in Array(ordered[replica * stages..<(replica + 1) * stages]) }
    let left = ordered[(replicas * stages)...]
    let leaves = shareLeaves(mesh)
    let schedules = leaves.map {
      Schedule.training(schedule, stages: stages, microbatches: shape.microbatches(ofLeaves: $0).count)
    }
    let cut = try cutUnits(mesh: mesh, leaves: leaves, schedules: schedules)
    let plan = Plan(
      stageUnits: cut, replicaLeaves: leaves, places: mesh.map { $0.map(\.worker) },
      spares: (Array(left) + tooSmall).map(\.worker).sorted(), schedule: schedule)
    return describe(
      plan, mesh: mesh, schedules: schedules, configured: configured, left: Array(left), tooSmall: tooSmall)
  }

  /// By speed, so that a replica's workers are alike; by ID when all are about equally fast.
  private func inOrder(_ workers: [WorkerCapacity]) -> [WorkerCapacity] {
    if areAlike(workers) { return workers.sorted { $0.worker < $1.worker } }
    return workers.sorted { ($1.speed, $0.worker) < ($0.speed, $1.worker) }
  }

  func areAlike(_ workers: [WorkerCapacity]) -> Bool {
    guard let slowest = workers.map(\.speed).min(), let fastest = workers.map(\.speed).max() else { return true }
    return fastest <= slowest * (1 + Planner.speedTolerance)
  }

  /// Whole leaves, at least one each; every further one goes to whoever would finish it first.
  private func shareLeaves(_ mesh: [[WorkerCapacity]]) -> [Range<Int>] {
    let alike = areAlike(mesh.flatMap { $0 })
    let speeds = mesh.map { row in alike ? 1 : row.reduce(0) { $0 + $1.speed } }
    var counts = [Int](repeating: 1, count: mesh.count)
    for _ in mesh.count..<max(shape.leaves, mesh.count) {
      var chosen = 0
      for replica in counts.indices.dropFirst() {
        let finish = Double(counts[replica] + 1) / speeds[replica]
        if finish < Double(counts[chosen] + 1) / speeds[chosen] { chosen = replica }
      }
      counts[chosen] += 1
    }
    var start = 0
    return counts.map { count in
      defer { start += count }
      return start..<start + count
    }
  }
}
