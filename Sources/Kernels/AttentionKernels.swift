import CVector
import KernelInterface

/// Keys of one query inside a tile, as columns of the tile.
@inline(__always)
func columns(_ intervals: KeyIntervals, _ query: Int) -> Range<Int> {
  let lower = max(Int(intervals.keyStart[query]) - intervals.firstKey, 0)
  let upper = min(Int(intervals.keyEnd[query]) - intervals.firstKey, intervals.keys)
  return lower..<max(lower, upper)
}

/// Zero in the whole vectors before and after those that hold the query's keys.
@inline(__always)
func clearOutside<E: ComputeElement>(_: E.Type, _ row: MutableBytes, _ touched: Range<Int>, _ count: Int) {
  forEachVector(touched.lowerBound) { start, lanes in E.store(.zero, row, start, lanes) }
  forEachVector(max(count - touched.upperBound, 0)) { start, lanes in
    E.store(.zero, row, touched.upperBound + start, lanes)
  }
}

/// The query's columns, widened to whole vectors.
@inline(__always)
func wholeVectors(_ columns: Range<Int>, _ count: Int) -> Range<Int> {
  let lower = columns.lowerBound / width * width
  return columns.isEmpty ? 0..<0 : lower..<min((columns.upperBound + width - 1) / width * width, count)
}

/// Far below every score that can occur, and finite: differences of it stay numbers.
@inline(__always) var hidden: Float { -1e30 }

@inline(__always)
func softmaxTileKernel<E: ComputeElement>(_: E.Type, _ tile: SoftmaxTile) {
  let keys = tile.intervals.keys
  for query in 0..<tile.intervals.queries {
    let scores = tile.scores + query * keys
    let probabilities = tile.probabilities + query * keys * E.sizeBytes
    let seen = columns(tile.intervals, query)
    let touched = wholeVectors(seen, keys)
    clearOutside(E.self, probabilities, touched, keys)
    if seen.isEmpty { continue }
    for key in touched.lowerBound..<seen.lowerBound { scores[key] = hidden }
    for key in seen.upperBound..<touched.upperBound { scores[key] = hidden }

    let row = scores + touched.lowerBound
    let outputs = probabilities + touched.lowerBound * E.sizeBytes
    var largest = splat(hidden)
    forEachVector(touched.count) { start, lanes in
      // Lanes beyond the end read as zero and must not win.
      let value = Float.load(row, start, lanes)
      largest = maximum(lanes == width ? value : firstLanes(value, lanes, otherwise: hidden), largest)
    }
    let before = tile.state.maximum[query]
    let tileMaximum = largest.largest * tile.scale
    let after = before > tileMaximum ? before : tileMaximum
    var sum = Vector.zero
    forEachVector(touched.count) { start, lanes in
      let value = Float.load(row, start, lanes)
      let score = lanes == width ? value : firstLanes(value, lanes, otherwise: hidden)
      let probability = exponential2(splat(-after).addingProduct(score, splat(tile.scale)))
      sum += probability
      E.store(probability, outputs, start, lanes)
    }
    let kept = exponential2(splat(before - after))[0]
    tile.state.maximum[query] = after
    tile.state.sum[query] = tile.state.sum[query] * kept + sum.total
    if kept != 1 {
      let output = tile.output + query * tile.headSize
      forEachVector(tile.headSize) { start, lanes in
        Float.store(Float.load(output, start, lanes) * kept, output, start, lanes)
      }
    }
  }
}

@inline(never)
func firstLanes(_ value: Vector, _ lanes: Int, otherwise: Float) -> Vector {
  var result = value
  for lane in lanes..<width { result[lane] = otherwise }
  return result
}

@inline(__always)
func softmaxFinishKernel<E: ComputeElement>(
  _: E.Type, _ accumulated: Floats, _ state: SoftmaxState, _ output: MutableBytes, _ stride: Int,
  _ logSumExp: MutableFloats, _ rowCount: Int, _ headSize: Int
) {
  for row in 0..<rowCount {
    let sum = state.sum[row]
    let scale = 1 / sum
    logSumExp[row] = (state.maximum[row] + logarithm2(sum)) * lnOf2
    let values = accumulated + row * headSize
    let outputs = output + row * stride * E.sizeBytes
    forEachVector(headSize) { start, lanes in
      E.store(Float.load(values, start, lanes) * scale, outputs, start, lanes)
    }
  }
}

/// By key: a vector holds sixteen queries.
@inline(__always)
func softmaxGradientTileKernel<E: ComputeElement>(_: E.Type, _ tile: SoftmaxGradientTile) {
  let queries = tile.intervals.queries
  let factor = splat(tile.scale * log2OfE)
  for row in 0..<tile.intervals.keys {
    let key = Int32(tile.intervals.firstKey + row)
    let scores = tile.scores + row * queries
    let upstream = tile.probabilityGradients + row * queries
    let probabilities = tile.probabilities + row * queries * E.sizeBytes
    let gradients = tile.scoreGradients + row * queries * E.sizeBytes
    forEachVector(queries) { start, lanes in
      let lower = integers(tile.intervals.keyStart, start, lanes)
      let upper = integers(tile.intervals.keyEnd, start, lanes)
      if vector_any_within(lower, upper, key) == 0 {
        E.store(.zero, probabilities, start, lanes)
        E.store(.zero, gradients, start, lanes)
        return
      }
      let offset = Float.load(tile.logSumExp, start, lanes) * -log2OfE
      let score = Float.load(scores, start, lanes)
      let probability = exponential2(offset.addingProduct(score, factor))
      let difference = Float.load(upstream, start, lanes) - Float.load(tile.delta, start, lanes)
      // Where no query looks, scores and upstream gradients may be anything.
      let gradient = vector_where_within(lower, upper, key, probability * difference * tile.scale)
      E.store(vector_where_within(lower, upper, key, probability), probabilities, start, lanes)
      E.store(gradient, gradients, start, lanes)
    }
  }
}

/// Elements `index ..< index + lanes`; the other lanes are zero.
@inline(__always)
private func integers(_ base: UnsafePointer<Int32>, _ index: Int, _ lanes: Int) -> SIMD16<Int32> {
  if lanes == width { return UnsafeRawPointer(base + index).loadUnaligned(as: SIMD16<Int32>.self) }
  var value = SIMD16<Int32>.zero
  for lane in 0..<lanes { value[lane] = base[index + lane] }
  return value
}
