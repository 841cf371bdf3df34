import ClusterModel

/// All that a journal says but its steps, which are too many to be held at once.
public struct LedgerContents: Hashable, Sendable {
  /// The plan of a generation and the state that it began from.
  public struct PlannedGeneration: Hashable, Sendable {
    public var fromStep: Step
    public var plan: Plan
    public init(fromStep: Step, plan: Plan) {
      self.fromStep = fromStep
      self.plan = plan
    }
  }
  public struct Checkpoint: Hashable, Sendable {
    public var step: Step
    public var generation: Generation
    public var nextSample: UInt64
    public init(step: Step, generation: Generation, nextSample: UInt64) {
      self.step = step
      self.generation = generation
      self.nextSample = nextSample
    }
  }
  public struct Validation: Hashable, Sendable {
    public var step: Step
    public var generation: Generation
    public init(step: Step, generation: Generation) {
      self.step = step
      self.generation = generation
    }
  }
  public var samplesPerStep: UInt64
  public var tokensPerStep: UInt64
  /// Leaves of a step; nil when the journal is older than this fact: then all plans must have as many.
  public var leaves: Int?
  /// Steps of a run that ended as done; nil of any other.
  public var stepsWhenDone: Step?
  public var generations: Set<Generation> = []
  public var plans: [Generation: PlannedGeneration] = [:]
  public var workers: [WorkerRecord] = []
  /// Ascending by their first sample.
  public var skips: [SkipRecord] = []
  /// Ascending by the step that found them out.
  public var expulsions: [ExpulsionRecord] = []
  public var checkpoints: [Checkpoint] = []
  public var validations: [Validation] = []

  public init(samplesPerStep: UInt64, tokensPerStep: UInt64, leaves: Int?) {
    self.samplesPerStep = samplesPerStep
    self.tokensPerStep = tokensPerStep
    self.leaves = leaves
  }

  /// Hosts of workers as they were when a generation was planned.
  public func hosts(in generation: Generation) -> [WorkerID: String] {
    var newest: [WorkerID: WorkerRecord] = [:]
    for record in workers where record.generation <= generation {
      if let other = newest[record.worker], other.generation > record.generation { continue }
      newest[record.worker] = record
    }
    return newest.mapValues(\.host)
  }
}

/// Proves from a journal that each sample was consumed exactly once, or lists what speaks against it.
///
/// Give it all steps in ascending order, then ``finish()``. It holds no more than one step at a time.
public struct LedgerVerifier: Sendable {
  private let contents: LedgerContents
  private var findings = LedgerFindings()
  private var expectedStep: Step = 0
  /// The end of the step before; nil after a step that could not be read.
  private var position: UInt64? = 0
  private var generation: Generation?
  private var skipIndex = 0
  private var checkpointIndex = 0
  /// Ascending by step.
  private let checkpoints: [LedgerContents.Checkpoint]

  public init(_ contents: LedgerContents) {
    self.contents = contents
    checkpoints = contents.checkpoints.sorted { $0.step < $1.step }
    checkPlans()
    checkSkips()
    checkCheckpointsBefore(step: 0)
  }

  /// The next step of the journal.
  public mutating func accept(_ record: StepRecord) {
    guard beginStep(record.step) else { return }
    checkGeneration(record)
    checkSamples(record)
    checkNumbers(record)
    findings.steps += 1
    // Hostile ranges may be as long as they like; what they add up to is only told of a good journal.
    findings.samples &+= record.samples.upperBound - record.samples.lowerBound
    position = record.samples.upperBound
    findings.nextSample = record.samples.upperBound
    checkCheckpointsBefore(step: record.step + 1)
  }

  /// The row of the next step cannot be read; where its samples end is not known.
  public mutating func acceptUnreadable(_ step: Step, reason: String) {
    findings.report(.unreadable(table: "steps", row: "\(step)", reason: reason))
    guard beginStep(step) else { return }
    position = nil
  }

  public mutating func report(_ problem: LedgerProblem) { findings.report(problem) }

  /// All steps are in.
  public mutating func finish() -> LedgerFindings {
    if let steps = contents.stepsWhenDone, steps > expectedStep {
      findings.report(.missingSteps(expectedStep..<steps))
    }
    var end = position ?? findings.nextSample
    for skip in contents.skips[skipIndex...] {
      if skip.samples.lowerBound == end {
        findings.skips.append(.init(record: skip, step: expectedStep))
        end = skip.samples.upperBound
      } else if position != nil {
        findings.report(.skipOutOfPlace(skip.samples, nextSample: findings.nextSample))
      }
    }
    for checkpoint in checkpoints[checkpointIndex...] {
      findings.report(
        .checkpoint(checkpoint.step, reason: "only \(expectedStep) steps are committed"))
    }
    for validation in contents.validations {
      if validation.step > expectedStep {
        findings.report(.validation(validation.step, reason: "only \(expectedStep) steps are committed"))
      }
      requireGeneration(validation.generation, "the validation of step \(validation.step)")
    }
    findings.checkpoints = checkpoints.count
    return findings
  }

  // MARK: A step

  /// - Returns: whether the step is to be looked at.
  private mutating func beginStep(_ step: Step) -> Bool {
    guard step >= expectedStep else {
      findings.report(.stepRepeated(step))
      return false
    }
    if step > expectedStep {
      findings.report(.missingSteps(expectedStep..<step))
      // That their samples are missing as well says nothing new.
      position = nil
    }
    expectedStep = step + 1
    return true
  }

  private mutating func checkGeneration(_ record: StepRecord) {
    if let before = generation, record.generation < before {
      findings.report(.generationFell(record.step, from: before, to: record.generation))
    }
    let isNew = record.generation != generation
    generation = record.generation
    if isNew {
      findings.generations += 1
      requireGeneration(record.generation, "step \(record.step)")
    }
    guard let planned = contents.plans[record.generation] else {
      if isNew { findings.report(.planMissing(record.generation, firstStep: record.step)) }
      return
    }
    if isNew, planned.fromStep > record.step {
      findings.report(.planBeginsLater(record.generation, fromStep: planned.fromStep, step: record.step))
    }
  }

  /// Gaps must be filled by skipped ranges exactly, and nothing may be consumed twice.
  private mutating func checkSamples(_ record: StepRecord) {
    let samples = record.samples
    let count = samples.upperBound - samples.lowerBound
    if count != contents.samplesPerStep {
      findings.report(.sampleCount(record.step, expected: contents.samplesPerStep, found: count))
    }
    if let position {
      if samples.lowerBound < position {
        findings.report(
          .samplesTwice(
            samples.lowerBound..<max(samples.lowerBound, min(position, samples.upperBound)), by: record.step)
        )
      }
      var covered = position
      while let skip = nextSkip(below: samples.lowerBound) {
        if skip.samples.lowerBound == covered {
          findings.skips.append(.init(record: skip, step: record.step))
          covered = skip.samples.upperBound
        } else {
          findings.report(.skipOutOfPlace(skip.samples, nextSample: position))
          covered = max(covered, skip.samples.upperBound)
        }
        if skip.samples.upperBound > samples.lowerBound {
          findings.report(.skippedAndConsumed(skip.samples, by: record.step))
        }
      }
      if covered < samples.lowerBound {
        findings.report(.samplesLeftOut(covered..<samples.lowerBound, before: record.step))
      }
    } else {
      while let skip = nextSkip(below: samples.lowerBound) {
        if skip.samples.upperBound > samples.lowerBound {
          findings.report(.skippedAndConsumed(skip.samples, by: record.step))
        }
      }
    }
    while let skip = nextSkip(below: samples.upperBound) {
      findings.report(.skippedAndConsumed(skip.samples, by: record.step))
    }
  }

  /// Takes the next skipped range if it begins before this position.
  private mutating func nextSkip(below bound: UInt64) -> SkipRecord? {
    guard skipIndex < contents.skips.count, contents.skips[skipIndex].samples.lowerBound < bound else { return nil }
    skipIndex += 1
    return contents.skips[skipIndex - 1]
  }

  private mutating func checkNumbers(_ record: StepRecord) {
    func count(_ reason: String) -> LedgerProblem { .counts(record.step, reason: reason) }
    if record.tokens != contents.tokensPerStep {
      findings.report(count("\(record.tokens) tokens; a step of this run has \(contents.tokensPerStep)"))
    }
    if record.targetTokens > record.tokens {
      findings.report(count("\(record.targetTokens) target tokens among \(record.tokens) tokens"))
    }
    if record.images > record.tokens {
      findings.report(count("\(record.images) images among \(record.tokens) tokens"))
    }
    for (name, loss, denominator, unit) in [
      ("language-model loss", record.languageModelLoss, record.targetTokens, "target tokens"),
      ("diffusion loss", record.diffusionLoss, record.images, "images"),
    ] {
      if (loss == nil) != (denominator == 0) {
        findings.report(count("\(loss == nil ? "no" : "a") \(name) of \(denominator) \(unit)"))
      }
      if let loss, !loss.isFinite {
        findings.report(.numbers(record.step, reason: "the \(name) is not finite"))
      }
    }
    if !record.gradientSumOfSquares.isFinite || record.gradientSumOfSquares < 0 {
      findings.report(
        .numbers(record.step, reason: "the squared gradient norm is \(record.gradientSumOfSquares)"))
    }
    if !record.learningRate.isFinite || record.learningRate < 0 {
      findings.report(.numbers(record.step, reason: "the learning rate is \(record.learningRate)"))
    }
  }

  // MARK: What is not in the steps

  /// Those of states up to this one: where such a state stands is known now.
  private mutating func checkCheckpointsBefore(step: Step) {
    while checkpointIndex < checkpoints.count, checkpoints[checkpointIndex].step <= step {
      let checkpoint = checkpoints[checkpointIndex]
      checkpointIndex += 1
      requireGeneration(checkpoint.generation, "the checkpoint of step \(checkpoint.step)")
      if checkpoint.step == step, let position, checkpoint.nextSample != position {
        findings.report(
          .checkpoint(
            checkpoint.step,
            reason: "it stands at sample \(checkpoint.nextSample), the steps before it end at \(position)"))
      }
    }
  }

  private mutating func checkSkips() {
    for (index, skip) in contents.skips.enumerated() {
      requireGeneration(skip.generation, "the skip of samples \(skip.samples)")
      if index > 0, skip.samples.lowerBound < contents.skips[index - 1].samples.upperBound {
        findings.report(.skipsOverlap(contents.skips[index - 1].samples, skip.samples))
      }
    }
  }

  private mutating func checkPlans() {
    var units: Int?
    var leaves = contents.leaves
    for (generation, planned) in contents.plans.sorted(by: { $0.key < $1.key }) {
      requireGeneration(generation, "a plan")
      for reason in planned.plan.faults(leaves: leaves, units: units, hosts: contents.hosts(in: generation)) {
        findings.report(.plan(generation, reason: reason))
      }
      for expulsion in contents.expulsions
      where expulsion.generation < generation && planned.plan.place(of: expulsion.worker) != nil {
        let reason = "\(expulsion.worker) has a place, but was expelled in \(expulsion.generation)"
        findings.report(.plan(generation, reason: reason))
      }
      leaves = leaves ?? planned.plan.replicaLeaves.last?.upperBound
      units = units ?? planned.plan.stageUnits.last?.upperBound
    }
  }

  private mutating func requireGeneration(_ generation: Generation, _ what: String) {
    if !contents.generations.contains(generation) {
      findings.report(.unknownGeneration(generation, what: what))
    }
  }
}

extension Plan {
  /// Why this plan does not say of each leaf and each unit who computed it; empty when it does.
  ///
  /// - Parameters:
  ///   - leaves: how many a step has, nil when that is not known.
  ///   - units: how many the model has, nil when that is not known.
  ///   - hosts: of all known workers.
  fileprivate func faults(leaves: Int?, units: Int?, hosts: [WorkerID: String]) -> [String] {
    var faults =
      Self.faults(of: replicaLeaves, count: leaves, "leaf", "replica")
      + Self.faults(of: stageUnits, count: units, "model unit", "stage")
    if places.count != replicaLeaves.count {
      faults.append("\(replicaLeaves.count) replicas, but workers for \(places.count)")
    }
    var seen: Set<WorkerID> = []
    for (replica, row) in places.enumerated() {
      if row.count != stageUnits.count {
        faults.append("replica \(replica) has \(row.count) workers for \(stageUnits.count) stages")
      }
      for worker in row {
        if !seen.insert(worker).inserted { faults.append("\(worker) has two places") }
        if hosts[worker] == nil { faults.append("\(worker) has a place, but never joined") }
      }
    }
    return faults
  }

  /// Each of `0 ..< count` must be in exactly one range.
  private static func faults(of ranges: [Range<Int>], count: Int?, _ what: String, _ owner: String) -> [String] {
    var faults: [String] = []
    var next = 0
    for (index, range) in ranges.enumerated() {
      if range.lowerBound > next {
        faults.append("no \(owner) has \(names(next..<range.lowerBound, what))")
      } else if range.lowerBound < next {
        faults.append(
          "\(names(max(range.lowerBound, 0)..<max(0, min(next, range.upperBound)), what)) "
            + "of \(owner) \(index) belong to another \(owner) as well")
      }
      next = max(next, range.upperBound)
    }
    if let count, next != count {
      faults.append("\(next) of \(count) \(what == "leaf" ? "leaves" : "\(what)s") are planned")
    }
    return faults
  }

  private static func names(_ range: Range<Int>, _ what: String) -> String {
    let last = max(range.lowerBound, range.upperBound - 1)
    return range.lowerBound == last ? "\(what) \(last)" : "\(what) \(range.lowerBound) to \(last)"
  }
}
