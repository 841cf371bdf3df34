import KernelInterface

@inline(__always)
func widenKernel<E: ComputeElement>(_: E.Type, _ source: Bytes, _ destination: MutableFloats, _ count: Int) {
  forEachVector(count) { start, lanes in
    Float.store(E.load(source, start, lanes), destination, start, lanes)
  }
}

@inline(__always)
func narrowKernel<E: ComputeElement>(_: E.Type, _ source: Floats, _ destination: MutableBytes, _ count: Int) {
  forEachVector(count) { start, lanes in
    E.store(Float.load(source, start, lanes), destination, start, lanes)
  }
}

@inline(__always)
func addKernel(_ source: Floats, _ destination: MutableFloats, _ count: Int) {
  forEachVector(count) { start, lanes in
    Float.store(Float.load(destination, start, lanes) + Float.load(source, start, lanes), destination, start, lanes)
  }
}

@inline(__always)
func addBiasKernel<E: ComputeElement>(_: E.Type, _ bias: Floats, _ rows: MutableBytes, _ rowCount: Int, _ columns: Int)
{
  for row in 0..<rowCount {
    let values = rows + row * columns * E.sizeBytes
    forEachVector(columns) { start, lanes in
      E.store(E.load(values, start, lanes) + Float.load(bias, start, lanes), values, start, lanes)
    }
  }
}

/// Sums blocks of 64 rows before adding them, so that long columns lose less to rounding.
@inline(__always)
func addColumnSumsKernel<E: ComputeElement>(
  _: E.Type, _ rows: Bytes, _ rowCount: Int, _ stride: Int, _ columns: Int, _ sums: MutableFloats
) {
  let blockRows = 64
  forEachVector(columns) { start, lanes in
    var total = Vector.zero
    var first = 0
    while first < rowCount {
      var block = Vector.zero
      for row in first..<min(first + blockRows, rowCount) {
        block += E.load(rows + row * stride * E.sizeBytes, start, lanes)
      }
      total += block
      first += blockRows
    }
    Float.store(Float.load(sums, start, lanes) + total, sums, start, lanes)
  }
}

@inline(__always)
func siluKernel<E: ComputeElement>(_: E.Type, _ x: Bytes, _ y: MutableBytes, _ count: Int) {
  forEachVector(count) { start, lanes in
    let value = E.load(x, start, lanes)
    E.store(value * sigmoid(value), y, start, lanes)
  }
}

/// d silu(x) / dx
@inline(__always)
func siluSlope(_ x: Vector, _ sigmoid: Vector) -> Vector { sigmoid * (1 + x * (1 - sigmoid)) }

@inline(__always)
func siluBackwardKernel<E: ComputeElement>(_: E.Type, _ dy: Bytes, _ x: Bytes, _ dx: MutableBytes, _ count: Int) {
  forEachVector(count) { start, lanes in
    let value = E.load(x, start, lanes)
    E.store(E.load(dy, start, lanes) * siluSlope(value, sigmoid(value)), dx, start, lanes)
  }
}

@inline(__always)
func swiGLUKernel<E: ComputeElement>(
  _: E.Type, _ gateUp: Bytes, _ output: MutableBytes, _ rowCount: Int, _ columns: Int
) {
  for row in 0..<rowCount {
    let gates = gateUp + row * 2 * columns * E.sizeBytes
    let ups = gates + columns * E.sizeBytes
    let outputs = output + row * columns * E.sizeBytes
    forEachVector(columns) { start, lanes in
      let gate = E.load(gates, start, lanes)
      E.store(gate * sigmoid(gate) * E.load(ups, start, lanes), outputs, start, lanes)
    }
  }
}

/// Reads each element before it writes it: results may replace the inputs.
@inline(__always)
func swiGLUBackwardKernel<E: ComputeElement>(
  _: E.Type, _ dOutput: Bytes, _ gateUp: Bytes, _ dGateUp: MutableBytes, _ output: MutableBytes, _ rowCount: Int,
  _ columns: Int
) {
  for row in 0..<rowCount {
    let gates = gateUp + row * 2 * columns * E.sizeBytes
    let ups = gates + columns * E.sizeBytes
    let gradients = dOutput + row * columns * E.sizeBytes
    let dGates = dGateUp + row * 2 * columns * E.sizeBytes
    let dUps = dGates + columns * E.sizeBytes
    let outputs = output + row * columns * E.sizeBytes
    forEachVector(columns) { start, lanes in
      let gate = E.load(gates, start, lanes)
      let up = E.load(ups, start, lanes)
      let gradient = E.load(gradients, start, lanes)
      let probability = sigmoid(gate)
      E.store(gate * probability * up, outputs, start, lanes)
      E.store(gradient * up * siluSlope(gate, probability), dGates, start, lanes)
      E.store(gradient * gate * probability, dUps, start, lanes)
    }
  }
}

@inline(__always)
func mixKernel(
  _ clean: Floats, _ noise: Floats, _ signal: Float, _ sigma: Float, _ noisy: MutableFloats, _ count: Int
) {
  forEachVector(count) { start, lanes in
    let value = Float.load(clean, start, lanes) * signal
    Float.store(value + Float.load(noise, start, lanes) * sigma, noisy, start, lanes)
  }
}
