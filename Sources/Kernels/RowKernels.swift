import KernelInterface

// T rows of width D.

@inline(__always)
func rmsNormKernel<E: ComputeElement>(
  _: E.Type, _ x: Floats, _ weight: Floats, _ epsilon: Float, _ y: MutableBytes, _ inverse: MutableFloats,
  _ rowCount: Int, _ columns: Int
) {
  for row in 0..<rowCount {
    let values = x + row * columns
    var squares = Vector.zero
    forEachVector(columns) { start, lanes in
      let value = Float.load(values, start, lanes)
      squares = squares.addingProduct(value, value)
    }
    let scale = 1 / (squares.total / Float(columns) + epsilon).squareRoot()
    inverse[row] = scale
    let outputs = y + row * columns * E.sizeBytes
    forEachVector(columns) { start, lanes in
      E.store(Float.load(values, start, lanes) * scale * Float.load(weight, start, lanes), outputs, start, lanes)
    }
  }
}

/// With r = 1/rms and n = x r: dx = r (dy w - n mean(dy w n)), and the weight gradient sums dy n.
@inline(__always)
func rmsNormBackwardKernel<E: ComputeElement>(
  _: E.Type, _ dy: Bytes, _ x: Floats, _ weight: Floats, _ inverse: Floats, _ dx: MutableFloats,
  _ weightPartial: MutableFloats, _ rowCount: Int, _ columns: Int
) {
  forEachVector(columns) { start, lanes in Float.store(.zero, weightPartial, start, lanes) }
  for row in 0..<rowCount {
    let values = x + row * columns
    let gradients = dy + row * columns * E.sizeBytes
    let results = dx + row * columns
    let scale = inverse[row]
    var products = Vector.zero
    forEachVector(columns) { start, lanes in
      let normal = Float.load(values, start, lanes) * scale
      let gradient = E.load(gradients, start, lanes)
      let part = gradient * normal
      products = products.addingProduct(part, Float.load(weight, start, lanes))
      Float.store(Float.load(weightPartial, start, lanes) + part, weightPartial, start, lanes)
    }
    let mean = products.total / Float(columns)
    forEachVector(columns) { start, lanes in
      let normal = Float.load(values, start, lanes) * scale
      let gradient = E.load(gradients, start, lanes) * Float.load(weight, start, lanes)
      let result = (gradient - normal * mean) * scale
      Float.store(Float.load(results, start, lanes) + result, results, start, lanes)
    }
  }
}

/// Pairs element i with element i + E/2 of each head (half-split, as in Hugging Face's LLaMA).
@inline(__always)
func rotateKernel<E: ComputeElement>(
  _: E.Type, _ rows: MutableBytes, _ rowCount: Int, _ stride: Int, _ heads: Int, _ headSize: Int, _ cosine: Floats,
  _ sine: Floats, _ inverse: Bool
) {
  let half = headSize / 2
  let sign: Float = inverse ? -1 : 1
  for row in 0..<rowCount {
    let cosines = cosine + row * half
    let sines = sine + row * half
    for head in 0..<heads {
      let low = rows + (row * stride + head * headSize) * E.sizeBytes
      let high = low + half * E.sizeBytes
      forEachVector(half) { start, lanes in
        let c = Float.load(cosines, start, lanes)
        let s = Float.load(sines, start, lanes) * sign
        let a = E.load(low, start, lanes)
        let b = E.load(high, start, lanes)
        E.store(a * c - b * s, low, start, lanes)
        E.store(b * c + a * s, high, start, lanes)
      }
    }
  }
}

@inline(__always)
func rowDotsKernel<E: ComputeElement>(
  _: E.Type, _ a: Bytes, _ b: Bytes, _ stride: Int, _ rowCount: Int, _ columns: Int, _ result: MutableFloats
) {
  for row in 0..<rowCount {
    var products = Vector.zero
    let offset = row * stride * E.sizeBytes
    forEachVector(columns) { start, lanes in
      products = products.addingProduct(E.load(a + offset, start, lanes), E.load(b + offset, start, lanes))
    }
    result[row] = products.total
  }
}
