import ClusterModel
import ControlPlane
import Wire

/// A model without a model: whole numbers that depend on everything that a trained state depends on.
///
/// A tensor is one number, its moments two. Sums are exact but tell their order and their brackets, so that a leaf
/// added in another place, a sample taken twice or a state one step old gives other numbers for ever after.
struct StandInModel: Sendable {
  var seed: UInt64
  var shape: StepShape
  /// The tensors of each unit, in order, without gaps.
  var unitTensors: [Range<Int>]
  /// Samples whose loss is no number: the steps that would consume them are skipped.
  var poisoned: Set<UInt64> = []
  var tensorCount: Int { unitTensors.last?.upperBound ?? 0 }

  /// The tensors of a stage.
  func tensors(ofUnits units: Range<Int>) -> Range<Int> {
    unitTensors[units.lowerBound].lowerBound..<unitTensors[units.upperBound - 1].upperBound
  }

  // MARK: State

  /// All tensors of a state, or some of them: the others are zero.
  struct Values: Hashable, Sendable {
    var parameters: [UInt64]
    var first: [UInt64]
    var second: [UInt64]
    init(count: Int) {
      parameters = [UInt64](repeating: 0, count: count)
      first = parameters
      second = parameters
    }
  }

  func initialState() -> Values {
    var values = Values(count: tensorCount)
    for tensor in 0..<tensorCount { values.parameters[tensor] = mixed(seed, UInt64(tensor)) }
    return values
  }

  /// The next state of one tensor.
  func update(_ values: inout Values, tensor: Int, sum: UInt64, sumOfSquares: Double, step: Step) {
    values.first[tensor] = mixed(values.first[tensor], sum)
    values.second[tensor] = mixed(values.second[tensor] &+ 1, sum ^ sumOfSquares.bitPattern)
    values.parameters[tensor] = mixed(
      values.parameters[tensor] &+ step, values.first[tensor] &+ 3 &* values.second[tensor])
  }

  // MARK: A microbatch

  /// What the first stage reads: the sample at a position of the stream.
  func sample(_ position: UInt64) -> UInt64 { mixed(seed &+ 1, position) }
  /// Beyond every sample of the stream.
  static func validationPosition(_ index: Int) -> UInt64 { 1 << 40 + UInt64(index) }
  func validationSample(_ index: Int) -> UInt64 { mixed(seed &+ 2, UInt64(index)) }

  func forward(_ input: UInt64, through tensors: Range<Int>, _ parameters: [UInt64]) -> UInt64 {
    var value = input
    for tensor in tensors { value = mixed(value, parameters[tensor]) }
    return value
  }

  /// The gradient of the last output.
  func outputGradient(_ output: UInt64) -> UInt64 { mixed(output, 7) }

  /// Gradients of a stage's tensors, added after what came before, and the gradient of its input.
  func backward(
    _ gradient: UInt64, input: UInt64, through tensors: Range<Int>, _ parameters: [UInt64], into sums: inout [UInt64],
    isFirst: Bool
  ) -> UInt64 {
    var value = gradient
    for tensor in tensors.reversed() {
      let own = mixed(value ^ parameters[tensor], input)
      let place = tensor - tensors.lowerBound
      sums[place] = isFirst ? own : Self.accumulated(sums[place], own)
      value = mixed(value, parameters[tensor])
    }
    return value
  }

  func loss(position: UInt64, output: UInt64, microbatch: Int) -> MicrobatchLoss {
    MicrobatchLoss(
      microbatch: UInt32(microbatch),
      languageModelSum: poisoned.contains(position) ? .nan : Double(output >> 44), targetTokens: 1 + position % 3,
      diffusionSum: Double((output >> 20) & 0xFFFFF), images: position % 2)
  }

  /// Sums inside a leaf and along the tree: neither commutes, neither may be bracketed otherwise.
  @inline(__always) static func accumulated(_ sum: UInt64, _ next: UInt64) -> UInt64 {
    (sum << 7 | sum >> 57) &* 0xBF58_476D_1CE4_E5B9 &+ next
  }
  @inline(__always) static func added(_ left: UInt64, _ right: UInt64) -> UInt64 {
    (left << 13 | left >> 51) &* 0x94D0_49BB_1331_11EB &+ right
  }

  func square(_ sum: UInt64) -> Double { Double(sum >> 40) }

  // MARK: The undisturbed run

  /// What a committed step must say.
  struct ExpectedStep: Sendable {
    var samples: Range<UInt64>
    var languageModelLoss: Double?
    var diffusionLoss: Double?
    var targetTokens: UInt64 = 0
    var images: UInt64 = 0
    var sumOfSquares = 0.0
  }

  struct Reference: Sendable {
    /// `states[s]` is the state after s steps.
    var states: [Values]
    var steps: [ExpectedStep]
    var skips = SkippedSamples()
  }

  /// What the data index says of some samples.
  func denominators(_ samples: Range<UInt64>) -> StepDenominators {
    samples.reduce(into: StepDenominators(targetTokens: 0, images: 0)) {
      $0.targetTokens += 1 + $1 % 3
      $0.images += $1 % 2
    }
  }

  /// All states, computed by one worker without any machine.
  func reference(steps count: Step) -> Reference {
    var state = initialState()
    var reference = Reference(states: [state], steps: [])
    let tensors = 0..<tensorCount
    let leafSize = shape.microbatchesPerLeaf
    for step in 0..<count {
      let perStep = UInt64(shape.microbatches)
      while reference.skips.samples(step: step, perStep: perStep).contains(where: poisoned.contains) {
        do {
          try reference.skips.insert(reference.skips.samples(step: step, perStep: perStep), perStep: perStep)
        } catch { preconditionFailure("\(error)") }
      }
      let samples = reference.skips.samples(step: step, perStep: perStep)
      let base = samples.lowerBound
      var expected = ExpectedStep(samples: samples)
      var language = 0.0
      var diffusion = 0.0
      var leaves: [[UInt64]] = []
      var sums = [UInt64](repeating: 0, count: tensorCount)
      for m in 0..<shape.microbatches {
        let position = base + UInt64(m)
        let input = sample(position)
        let output = forward(input, through: tensors, state.parameters)
        let loss = loss(position: position, output: output, microbatch: m)
        language += loss.languageModelSum
        diffusion += loss.diffusionSum
        expected.targetTokens += loss.targetTokens
        expected.images += loss.images
        _ = backward(
          outputGradient(output), input: position, through: tensors, state.parameters, into: &sums,
          isFirst: m % leafSize == 0)
        if m % leafSize == leafSize - 1 { leaves.append(sums) }
      }
      let whole = Self.total(0..<shape.leaves, leaves)
      expected.languageModelLoss = expected.targetTokens == 0 ? nil : language / Double(expected.targetTokens)
      expected.diffusionLoss = expected.images == 0 ? nil : diffusion / Double(expected.images)
      for sum in whole { expected.sumOfSquares += square(sum) }
      for tensor in tensors {
        update(&state, tensor: tensor, sum: whole[tensor], sumOfSquares: expected.sumOfSquares, step: step)
      }
      reference.steps.append(expected)
      reference.states.append(state)
    }
    return reference
  }

  private static func total(_ node: Range<Int>, _ leaves: [[UInt64]]) -> [UInt64] {
    guard let (left, right) = LeafTree.children(of: node) else { return leaves[node.lowerBound] }
    return zip(total(left, leaves), total(right, leaves)).map { added($0, $1) }
  }

  /// Validation losses of a state.
  func evaluation(_ state: Values, microbatches: Int) -> [MicrobatchLoss] {
    (0..<microbatches).map { index in
      let output = forward(validationSample(index), through: 0..<tensorCount, state.parameters)
      return loss(position: Self.validationPosition(index), output: output, microbatch: index)
    }
  }
}
