/// Running maximum (of scores times log2(e)) and running sum of each query of a tile, for the online softmax
/// (Milakov and Gimelshein 2018, arXiv 1805.02867).
public struct SoftmaxState {
  public var maximum: MutableFloats
  public var sum: MutableFloats
  public init(maximum: MutableFloats, sum: MutableFloats) {
    self.maximum = maximum
    self.sum = sum
  }
}

/// Which keys of a tile each of its queries sees: key `firstKey + j` in `keyStart[i]..<keyEnd[i]`.
public struct KeyIntervals {
  public var keyStart: UnsafePointer<Int32>
  public var keyEnd: UnsafePointer<Int32>
  public var firstKey: Int
  public var queries: Int
  public var keys: Int
  public init(
    keyStart: UnsafePointer<Int32>, keyEnd: UnsafePointer<Int32>, firstKey: Int, queries: Int, keys: Int
  ) {
    self.keyStart = keyStart
    self.keyEnd = keyEnd
    self.firstKey = firstKey
    self.queries = queries
    self.keys = keys
  }
}

/// One step of the online softmax: scores become probabilities relative to the new running maximum, and the
/// output gathered so far is scaled to it.
public struct SoftmaxTile {
  public var intervals: KeyIntervals
  /// Multiplies the scores: log2(e) / sqrt(head size).
  public var scale: Float
  /// [queries, keys]; clobbered.
  public var scores: MutableFloats
  /// [queries, keys] of the compute type.
  public var probabilities: MutableBytes
  /// [queries, head size]
  public var output: MutableFloats
  public var headSize: Int
  public var state: SoftmaxState
  public init(
    intervals: KeyIntervals, scale: Float, scores: MutableFloats, probabilities: MutableBytes, output: MutableFloats,
    headSize: Int, state: SoftmaxState
  ) {
    self.intervals = intervals
    self.scale = scale
    self.scores = scores
    self.probabilities = probabilities
    self.output = output
    self.headSize = headSize
    self.state = state
  }
}

/// Probabilities recomputed from the scores and log-sum-exp, and the gradient of the unscaled scores:
/// P * (dP - delta) / sqrt(head size). All matrices are by key.
public struct SoftmaxGradientTile {
  public var intervals: KeyIntervals
  /// 1 / sqrt(head size)
  public var scale: Float
  /// [keys, queries]
  public var scores: Floats
  /// [keys, queries]
  public var probabilityGradients: Floats
  /// Natural logarithm of the sum of exponentials of the scaled scores, one per query.
  public var logSumExp: Floats
  /// Dot product of output and its gradient, one per query.
  public var delta: Floats
  /// [keys, queries] of the compute type, both overwritten.
  public var probabilities: MutableBytes
  public var scoreGradients: MutableBytes
  public init(
    intervals: KeyIntervals, scale: Float, scores: Floats, probabilityGradients: Floats, logSumExp: Floats,
    delta: Floats, probabilities: MutableBytes, scoreGradients: MutableBytes
  ) {
    self.intervals = intervals
    self.scale = scale
    self.scores = scores
    self.probabilityGradients = probabilityGradients
    self.logSumExp = logSumExp
    self.delta = delta
    self.probabilities = probabilities
    self.scoreGradients = scoreGradients
  }
}

/// A run of elements of one AdamW update; the names are those of `AdamWStep` in Compute.
public struct AdamWSlice {
  public var parameter: MutableFloats
  public var gradient: Floats
  public var firstMoment: MutableFloats
  public var secondMoment: MutableFloats
  /// bfloat16 copy of the new parameter, where wanted.
  public var computeCopy: MutableBytes?
  public var count: Int
  /// 1 - learningRate * weightDecay
  public var decay: Float
  /// learningRate / correction1
  public var stepSize: Float
  /// 1 / sqrt(correction2)
  public var secondMomentScale: Float
  public var beta1, beta2, epsilon, gradientScale: Float
  public init(
    parameter: MutableFloats, gradient: Floats, firstMoment: MutableFloats, secondMoment: MutableFloats,
    computeCopy: MutableBytes?, count: Int, decay: Float, stepSize: Float, secondMomentScale: Float, beta1: Float,
    beta2: Float, epsilon: Float, gradientScale: Float
  ) {
    self.parameter = parameter
    self.gradient = gradient
    self.firstMoment = firstMoment
    self.secondMoment = secondMoment
    self.computeCopy = computeCopy
    self.count = count
    self.decay = decay
    self.stepSize = stepSize
    self.secondMomentScale = secondMomentScale
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.gradientScale = gradientScale
  }
}
