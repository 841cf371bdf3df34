import ClusterModel

/// What the planner knows of one unit of the model: the coordinator does not know what a layer is.
public struct CostUnit: Hashable, Sendable, Codable {
  /// For reports: "input", "layer 3", "output".
  public var name: String
  /// Floating-point operations of one microbatch's forward pass.
  public var forwardFlops: Double
  public var parameterCount: Int
  /// Bytes kept for one microbatch between its forward and its backward pass.
  public var activationBytes: Int
  public init(name: String, forwardFlops: Double, parameterCount: Int, activationBytes: Int) {
    self.name = name
    self.forwardFlops = forwardFlops
    self.parameterCount = parameterCount
    self.activationBytes = activationBytes
  }
}

/// What the planner knows of one worker.
public struct WorkerCapacity: Hashable, Sendable, Codable {
  public var worker: WorkerID
  /// Measured when joining; anything not positive counts as one.
  public var gigaflopsPerSecond: Double
  public var memoryLimitBytes: UInt64
  public init(worker: WorkerID, gigaflopsPerSecond: Double, memoryLimitBytes: UInt64) {
    self.worker = worker
    self.gigaflopsPerSecond = gigaflopsPerSecond
    self.memoryLimitBytes = memoryLimitBytes
  }
  var speed: Double { gigaflopsPerSecond > 0 && gigaflopsPerSecond.isFinite ? gigaflopsPerSecond : 1 }
}

/// Bytes that a stage holds, by cause. The defaults are those of float32 training with AdamW.
public struct MemoryModel: Hashable, Sendable, Codable {
  public var weightBytesPerParameter = 4
  /// The bfloat16 copies of the weights; 0 in float32 mode.
  public var computeCopyBytesPerParameter = 0
  public var gradientBytesPerParameter = 4
  /// Two float32 moments, sharded over the replicas of the stage.
  public var momentBytesPerParameter = 8
  /// Copies of the state in memory, its own and another worker's, sharded over the replicas of the stage; 0 when none
  /// are made.
  public var copyBytesPerParameter = 0
  /// What a checkpoint's snapshot copies, sharded over the replicas of the stage.
  public var snapshotBytesPerParameter = 12
  /// One microbatch's output between two stages (its input and two gradients are as large).
  public var boundaryBytes = 0
  /// Scratch of kernels, heads and messages that does not depend on the stage.
  public var fixedBytes = 64 << 20
  /// Whether each leaf has one microbatch: where no other one is live, its gradients take the place of its activations.
  public var leavesAreMicrobatches = false
  /// Backward time over forward time: 2, up to 3 when activations are made again.
  public var backwardOverForward = 2.0
  public init() {}

  /// Bytes of a stage of `replicas` replicas with `slots` live microbatches.
  /// - Parameters:
  ///   - units: in pipeline order.
  ///   - sums: gradients at one time, see ``LeafTree/mostSums(in:)``.
  public func estimateBytes(units: some Sequence<CostUnit>, slots: Int, replicas: Int, sums: Int) -> UInt64 {
    var parameters = 0
    var activation = 0
    // How far behind the activations' first byte gradients begin that none of them reaches what is still needed.
    var gradientStart = 0
    for unit in units {
      activation += unit.activationBytes
      gradientStart = max(gradientStart, activation - parameters * gradientBytesPerParameter)
      parameters += unit.parameterCount
    }
    let shared =
      leavesAreMicrobatches && slots == 1
      ? min(parameters * gradientBytesPerParameter, activation - gradientStart) : 0
    let whole = weightBytesPerParameter + computeCopyBytesPerParameter + gradientBytesPerParameter * sums
    // Each replica keeps what it owns and backs another one's.
    let sharded = momentBytesPerParameter * min(2, max(replicas, 1)) + snapshotBytesPerParameter + copyBytesPerParameter
    return UInt64(parameters * whole + parameters * sharded / max(replicas, 1))
      + UInt64(slots * (activation + 4 * boundaryBytes) - shared + fixedBytes)
  }
}

/// Why no plan can be made.
public enum PlanError: Error, Hashable, Sendable, CustomStringConvertible {
  case noWorkers
  case noUnits
  case notPositive(stages: Int)
  case moreStagesThanUnits(stages: Int, units: Int)
  /// No allowed cut fits; the numbers are those of the best attempt's tightest stage.
  case notEnoughMemory(stages: Int, workers: Int, stage: Int, needsBytes: UInt64, worker: WorkerID, hasBytes: UInt64)

  public var description: String {
    switch self {
    case .noWorkers: "there are no workers to plan for: join at least one with `transfusion worker join ADDRESS`"
    case .noUnits: "the model has no units to cut into stages"
    case .notPositive(let stages): "\(stages) stages make no pipeline: set parallelism.stages to 1 or more"
    case .moreStagesThanUnits(let stages, let units):
      "\(stages) stages need as many model units, but there are only \(units): set fewer stages"
    case .notEnoughMemory(let stages, let workers, let stage, let needs, let worker, let has):
      "not enough memory: with \(stages) stages over \(workers) workers, stage \(stage) needs about "
        + "\(ByteText.text(needs)) but \(worker) has \(ByteText.text(has)); join more workers, raise --memory-limit, "
        + "set training.recompute: full or use smaller microbatches"
    }
  }
}

/// Byte counts as people read them.
public enum ByteText {
  /// "1.5 GiB"
  public static func text(_ bytes: UInt64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    var value = Double(bytes)
    var index = 0
    while value >= 1024, index < units.count - 1 {
      value /= 1024
      index += 1
    }
    guard index > 0 else { return "\(bytes) B" }
    let tenths = Int((value * 10).rounded())
    return "\(tenths / 10).\(tenths % 10) \(units[index])"
  }
}
