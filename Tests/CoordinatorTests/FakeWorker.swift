import Checkpoints
import ClusterModel
import ControlPlane
import Foundation
import Transport
import Wire

/// A worker that talks over a real socket and computes nothing: losses fall by a rule of the step alone.
struct FakeWorker: Sendable {
  /// What it does wrong.
  enum Fault: Sendable, Hashable {
    /// Hangs up when told to compute this step.
    case dies(atStep: Step)
    /// Reports a loss of another value.
    case drifts(atStep: Step)
    case cannotWriteCheckpoints
    /// Reports losses that are no numbers.
    case breaks(atStep: Step)
    /// Computes on another processor than the others.
    case foreignDevice
  }
  var address: String
  var name: String
  var fault: Fault?
  var keys: ClientKeys?
  /// One tensor per index, owned round robin by rank.
  static let tensorShapes: [String: [Int]] = ["a": [2], "b": [3], "c": [1, 2]]

  /// Works until it is stopped; returns what it was told, nil when it died.
  func run() throws -> Stop? {
    let client = try ControlClient(address: address, keys: keys)
    var worker: WorkerID?
    var run = RunID("")
    var generation = Generation(0)
    var plan: Plan?
    var directory = ""
    // Steps of fake workers are quicker than a disk: a step waits for the manifest, so that runs repeat exactly.
    var awaitedManifest: Step?
    var heldStep: Step?
    var order: UInt64 = 0
    func say(_ message: ControlMessage) throws {
      try client.send(
        Envelope(
          run: run, generation: generation, sender: worker.map { .worker($0) } ?? .candidate, order: order,
          message: message))
    }
    try say(
      .hello(
        Hello(
          worker: nil, host: name, processID: 1, threads: 1, memoryLimitBytes: 1 << 40,
          deviceFingerprint: fault == .foreignDevice ? "other" : "fake",
          gigaflopsPerSecond: 100, dataEndpoint: "ipc:///\(name)")))
    let deadline = Date().addingTimeInterval(60)
    var lastHeard = Date()
    while Date() < deadline, Date().timeIntervalSince(lastHeard) < 5 {
      for envelope in try client.poll(timeoutMilliseconds: 20) {
        lastHeard = Date()
        if envelope.order > 0 {
          // Sent again, though it is under way or answered.
          guard envelope.generation > generation || envelope.order > order else { continue }
          order = envelope.order
        }
        switch envelope.message {
        case .welcome(let welcome):
          worker = welcome.worker
          run = envelope.run
          generation = envelope.generation
          directory = welcome.runDirectory
        case .regroup:
          generation = envelope.generation
          (awaitedManifest, heldStep) = (nil, nil)
          // It keeps no state: whoever is lost takes the run back to the checkpoint.
          try say(.standing(Standing()))
        case .save(let step): try say(checkpoint(step, worker, plan, directory))
        case .prepare(let prepare):
          plan = prepare.plan
          try say(.ready(Ready(step: prepare.fromStep, dataFingerprint: "data", memoryBytes: 1 << 20)))
        case .runStep(let step):
          if fault == .dies(atStep: step) { return nil }
          if awaitedManifest == nil { try say(.reduced(reduced(step, worker, plan))) } else { heldStep = step }
        case .checkpointCommitted:
          awaitedManifest = nil
          if let step = heldStep { try say(.reduced(reduced(step, worker, plan))) }
          heldStep = nil
        case .update(let update):
          try say(.updated(Updated(step: update.step, phases: PhaseSeconds(), memoryBytes: 1 << 20)))
          if update.checkpoint {
            if fault != .cannotWriteCheckpoints { awaitedManifest = update.step + 1 }
            try say(checkpoint(update.step + 1, worker, plan, directory))
          }
        case .evaluate(let step):
          let place = worker.flatMap { plan?.place(of: $0) }
          let isReporter = place == Place(replica: 0, stage: (plan?.stageCount ?? 1) - 1)
          try say(.evaluated(Evaluated(step: step, losses: isReporter ? losses(0..<2, step) : [])))
        case .stop(let stop): return stop
        case .refused(let reason): return Stop(disposition: .failed, reason: reason)
        default: break
        }
      }
      try say(
        .heartbeat(
          Heartbeat(
            progress: UInt64(Date().timeIntervalSince1970 * 100), step: 0, phase: "idle", microbatchesPerSecond: 2.5,
            memoryBytes: 1 << 20, order: order)))
    }
    return nil
  }

  private func losses(_ range: Range<Int>, _ step: Step) -> [MicrobatchLoss] {
    range.map { m in
      var sum = 10 / Double(step + 1) + Double(m)
      if fault == .drifts(atStep: step) { sum += 0.001 }
      if fault == .breaks(atStep: step) { sum = .nan }
      return MicrobatchLoss(
        microbatch: UInt32(m), languageModelSum: sum, targetTokens: 10, diffusionSum: 0.25, images: 1)
    }
  }

  private func owned(_ worker: WorkerID?, _ plan: Plan?) -> [Int] {
    guard let worker, let plan, let rank = plan.rank(of: worker) else { return [] }
    return (0..<Self.tensorShapes.count).filter { $0 % (plan.replicaCount * plan.stageCount) == rank }
  }

  private func reduced(_ step: Step, _ worker: WorkerID?, _ plan: Plan?) -> Reduced {
    var mine: [MicrobatchLoss] = []
    if let worker, let plan, let place = plan.place(of: worker), place.stage == plan.stageCount - 1 {
      mine = losses(
        StepShape(microbatches: 4, leaves: 2).microbatches(ofLeaves: plan.replicaLeaves[place.replica]), step)
    }
    return Reduced(
      step: step, losses: mine,
      norms: owned(worker, plan).map { TensorNorm(tensor: UInt32($0), sumOfSquares: Double($0 + 1) / Double(step + 1)) }
    )
  }

  private func checkpoint(_ step: Step, _ worker: WorkerID?, _ plan: Plan?, _ directory: String) -> ControlMessage {
    guard let worker, fault != .cannotWriteCheckpoints else {
      return .checkpointFailed(step: step, reason: "no space left on device")
    }
    var tensors: [TensorSource] = []
    for index in owned(worker, plan) {
      let (name, shape) = Self.tensorShapes.sorted { $0.key < $1.key }[index]
      for group in ["/parameters/", "/adamw/first_moment/", "/adamw/second_moment/"] {
        tensors.append(
          TensorSource(
            path: group + name, shape: shape, values: [Float](repeating: Float(step), count: shape.reduce(1, *))))
      }
    }
    do throws(CheckpointError) {
      let part = try CheckpointStore(directory: directory + "/checkpoints").writePart(
        step: step, file: "worker-\(worker.number).h5", tensors: tensors)
      return .checkpointWritten(
        CheckpointPart(
          step: step, file: part.file, sizeBytes: part.sizeBytes, sha256: part.sha256,
          tensors: part.tensors.map { .init(path: $0.path, shape: $0.shape, sha256: $0.sha256) }))
    } catch {
      return .checkpointFailed(step: step, reason: "\(error)")
    }
  }
}
