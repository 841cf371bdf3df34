import CVector
import KernelInterface

@inline(__always)
func sumOfSquaresKernel(_ values: Floats, _ count: Int) -> Double {
  var sum = SIMD8<Double>.zero
  forEachVector(count) { start, lanes in sum = vector_add_squares(sum, Float.load(values, start, lanes)) }
  return vector_total_double(sum)
}

@inline(__always)
func adamWKernel(_ slice: AdamWSlice) {
  let one: Float = 1
  forEachVector(slice.count) { start, lanes in
    let gradient = Float.load(slice.gradient, start, lanes) * slice.gradientScale
    let first = Float.load(slice.firstMoment, start, lanes) * slice.beta1 + gradient * (one - slice.beta1)
    let second =
      Float.load(slice.secondMoment, start, lanes) * slice.beta2 + gradient * gradient * (one - slice.beta2)
    let denominator = vector_square_root(second) * slice.secondMomentScale + slice.epsilon
    let parameter =
      Float.load(slice.parameter, start, lanes) * slice.decay - slice.stepSize * first / denominator
    Float.store(first, slice.firstMoment, start, lanes)
    Float.store(second, slice.secondMoment, start, lanes)
    Float.store(parameter, slice.parameter, start, lanes)
    if let copy = slice.computeCopy { BFloat16.store(parameter, copy, start, lanes) }
  }
}
