import KernelInterface

/// Two passes over the logits: maximum and sum together (online, per lane), then the gradient.
@inline(__always)
func crossEntropyKernel<E: ComputeElement>(
  _: E.Type, _ logits: Floats, _ count: Int, _ target: Int, _ scale: Float, _ gradient: MutableBytes?
) -> Float {
  // Blocks keep the rescaling of the sums rare: one exponential per element and one per block.
  let block = 512
  var maximumSoFar = -Float.greatestFiniteMagnitude
  var sums = Vector.zero
  var first = 0
  while first < count {
    let length = min(block, count - first)
    let values = logits + first
    var largest = Vector(repeating: -Float.greatestFiniteMagnitude)
    forEachVector(length) { start, lanes in
      let value = Float.load(values, start, lanes)
      largest = maximum(
        lanes == width ? value : firstLanes(value, lanes, otherwise: -Float.greatestFiniteMagnitude), largest)
    }
    let blockMaximum = largest.largest
    if blockMaximum > maximumSoFar {
      let kept = exponential2(Vector(repeating: max(maximumSoFar - blockMaximum, -200) * log2OfE))[0]
      sums *= kept
      maximumSoFar = blockMaximum
    }
    let offset = Vector(repeating: -maximumSoFar * log2OfE)
    forEachVector(length) { start, lanes in
      let value = Float.load(values, start, lanes)
      let score = lanes == width ? value : firstLanes(value, lanes, otherwise: -Float.infinity)
      sums += exponential2(offset.addingProduct(score, Vector(repeating: log2OfE)))
    }
    first += block
  }
  let sum = sums.total
  let logSum = maximumSoFar + logarithm2(sum) * lnOf2
  if let gradient {
    let offset = Vector(repeating: -maximumSoFar * log2OfE)
    let factor = scale / sum
    forEachVector(count) { start, lanes in
      let value = Float.load(logits, start, lanes)
      E.store(exponential2(offset.addingProduct(value, Vector(repeating: log2OfE))) * factor, gradient, start, lanes)
    }
    let probability = exponential2(Vector(repeating: (logits[target] - maximumSoFar) * log2OfE))[0] / sum
    E.store(one: (probability - 1) * scale, gradient + target * E.sizeBytes)
  }
  return logSum - logits[target]
}

@inline(__always)
func squaredErrorKernel(
  _ prediction: Floats, _ target: Floats, _ scale: Float, _ gradient: MutableFloats?, _ rows: Int, _ columns: Int
) -> Double {
  var total = 0.0
  for row in 0..<rows {
    let offset = row * columns
    var squares = Vector.zero
    forEachVector(columns) { start, lanes in
      let difference =
        Float.load(prediction + offset, start, lanes) - Float.load(target + offset, start, lanes)
      squares = squares.addingProduct(difference, difference)
      if let gradient { Float.store(difference * scale, gradient + offset, start, lanes) }
    }
    total += Double(squares.total)
  }
  return total
}
