import Glibc
import KernelInterface

// One task is one key-value head and one segment of rows that no interval leaves: everything its gradients sum over
// lies inside it, and is added in the order of key tiles, then heads, then query tiles.

extension CPUDevice {
  public func attentionBackward(
    _ dOutput: Tensor, qkv: Tensor, output: Tensor, logSumExp: Tensor, heads: Int, keyValueHeads: Int, keyStart: Tensor,
    keyEnd: Tensor, into dqkv: Tensor
  ) {
    var operands = attentionOperands(qkv, heads, keyValueHeads, keyStart, keyEnd, logSumExp)
    precondition(
      dOutput.type == qkv.type && output.type == qkv.type && dqkv.type == qkv.type && dqkv.count == qkv.count
        && dOutput.count == output.count && output.count == operands.tokens * operands.outputStride,
      "attention gradient: output \(dOutput.type) \(dOutput.shape), input \(qkv.type) \(qkv.shape)")
    if operands.tokens == 0 { return }
    do throws(DeviceError) {
      if qkv.type == .bfloat16, !multipliesBFloat16 {
        var layout = ScratchLayout()
        let (qkvAt, dqkvAt) = (layout.add(floats: qkv.count), layout.add(floats: qkv.count))
        let (outputAt, dOutputAt) = (layout.add(floats: output.count), layout.add(floats: output.count))
        let memory = widened.reserve(layout.totalBytes)
        convert(address(qkv), .bfloat16, to: memory + qkvAt, .float32, count: qkv.count)
        convert(address(output), .bfloat16, to: memory + outputAt, .float32, count: output.count)
        convert(address(dOutput), .bfloat16, to: memory + dOutputAt, .float32, count: output.count)
        operands.type = .float32
        operands.qkv = Bytes(memory + qkvAt)
        try attendBackward(operands, Bytes(memory + dOutputAt), Bytes(memory + outputAt), memory + dqkvAt)
        convert(memory + dqkvAt, .float32, to: address(dqkv), .bfloat16, count: qkv.count)
      } else {
        try attendBackward(operands, Bytes(address(dOutput)), Bytes(address(output)), address(dqkv))
      }
    } catch { record(error) }
  }

  /// The products of one backward tile, by operation. Scores and their gradients are kept by key, [keys, queries]: so
  /// they are left operands as they lie for two of the three sums that use them.
  private struct BackwardProducts {
    var scores, probabilityGradients, valueGradients, keyGradients, queryGradients: AttentionProducts
  }

  private func backwardProducts(_ operands: AttentionOperands, _ plan: AttentionPlan) throws(DeviceError)
    -> BackwardProducts
  {
    let headSize = operands.headSize
    func gradientShape(_ rows: Int, _ inner: Int, aStride: Int, bStride: Int, transposed: Bool) -> MatmulShape {
      MatmulShape(
        rows: rows, columns: headSize, inner: inner, operandType: operands.type, resultType: .float32,
        accumulate: true, aStride: aStride, bStride: bStride, cStride: headSize, transposeA: transposed,
        transposeB: false)
    }
    return BackwardProducts(
      scores: try AttentionProducts(plan, products) { queries, keys in
        scoreShape(operands, keys, queries, aStride: operands.stride, bStride: operands.stride)
      },
      probabilityGradients: try AttentionProducts(plan, products) { queries, keys in
        scoreShape(operands, keys, queries, aStride: operands.stride, bStride: operands.outputStride)
      },
      valueGradients: try AttentionProducts(plan, products) { queries, keys in
        gradientShape(keys, queries, aStride: queries, bStride: operands.outputStride, transposed: false)
      },
      keyGradients: try AttentionProducts(plan, products) { queries, keys in
        gradientShape(keys, queries, aStride: queries, bStride: operands.stride, transposed: false)
      },
      queryGradients: try AttentionProducts(plan, products) { queries, keys in
        gradientShape(queries, keys, aStride: queries, bStride: operands.stride, transposed: true)
      })
  }

  private func attendBackward(_ operands: AttentionOperands, _ dOutput: Bytes, _ output: Bytes, _ dqkv: MutableBytes)
    throws(DeviceError)
  {
    let plan = AttentionPlan(tokens: operands.tokens, keyStart: operands.keyStart, keyEnd: operands.keyEnd)
    let multiply = try backwardProducts(operands, plan)
    let (type, headSize, group) = (operands.type, operands.headSize, operands.group)
    let kernels = typed(type)
    let tileElements = plan.queries.size * plan.keys.size
    let longest = plan.segments.map(\.count).max() ?? 0
    var layout = ScratchLayout()
    let scoresAt = layout.add(floats: tileElements)
    let upstreamAt = layout.add(floats: tileElements)
    let probabilitiesAt = layout.add(tileElements * type.sizeBytes)
    let scoreGradientsAt = layout.add(tileElements * type.sizeBytes)
    let keyGradientAt = layout.add(floats: plan.keys.size * headSize)
    let valueGradientAt = layout.add(floats: plan.keys.size * headSize)
    let deltaAt = layout.add(floats: group * longest)
    let queryGradientAt = layout.add(floats: group * longest * headSize)
    let reachAt = layout.add(TileReach.bytes(plan))

    // Longest segments first: no thread waits long at the end. The order does not change any sum.
    let segments = plan.segments.sorted { ($1.count, $0.lowerBound) < ($0.count, $1.lowerBound) }
    parallel(operands.keyValueHeads * segments.count) { index, lane in
      let segment = segments[index / operands.keyValueHeads]
      let keyValueHead = index % operands.keyValueHeads
      let memory = lane.scratch.reserve(layout.totalBytes)
      func floats(_ offset: Int) -> MutableFloats { (memory + offset).assumingMemoryBound(to: Float.self) }
      let firstHead = keyValueHead * group
      let reach = TileReach(own[type], plan, in: memory + reachAt)
      let (delta, queryGradient) = (floats(deltaAt), floats(queryGradientAt))
      memset(queryGradient, 0, group * segment.count * headSize * 4)
      for member in 0..<group {
        let start = operands.outputBytes(segment.lowerBound, firstHead + member)
        kernels.rowDots(
          dOutput + start, output + start, operands.outputStride, segment.count, headSize,
          delta + member * segment.count)
      }
      for keyTile in plan.keyTiles(in: segment) {
        let keys = plan.keys.range(keyTile)
        memset(memory + keyGradientAt, 0, keys.count * headSize * 4)
        memset(memory + valueGradientAt, 0, keys.count * headSize * 4)
        let keyRows = operands.qkv + operands.bytes(keys.lowerBound, operands.key(keyValueHead))
        let valueRows = operands.qkv + operands.bytes(keys.lowerBound, operands.value(keyValueHead))
        for member in 0..<group {
          let head = firstHead + member
          for tile in plan.queryTiles(in: segment) where plan.sees(queryTile: tile, keyTile: keyTile) {
            let rows = plan.queries.range(tile)
            let local = member * segment.count + rows.lowerBound - segment.lowerBound
            let queryRows = operands.qkv + operands.bytes(rows.lowerBound, operands.query(head))
            let upstreamRows = dOutput + operands.outputBytes(rows.lowerBound, head)
            let intervals = operands.intervals(rows, keys)
            reach.find(intervals, withKeys: true)
            lane.multiply(
              multiply.scores.primitive(plan, tile, keyTile), keyRows, queryRows, memory + scoresAt,
              reach: reach.queries(.columns))
            lane.multiply(
              multiply.probabilityGradients.primitive(plan, tile, keyTile), valueRows, upstreamRows,
              memory + upstreamAt, reach: reach.queries(.columns))
            kernels.softmaxGradientTile(
              SoftmaxGradientTile(
                intervals: intervals, scale: operands.scale, scores: floats(scoresAt),
                probabilityGradients: floats(upstreamAt),
                logSumExp: operands.logSumExp + head * operands.tokens + rows.lowerBound, delta: delta + local,
                probabilities: memory + probabilitiesAt, scoreGradients: memory + scoreGradientsAt))
            lane.multiply(
              multiply.valueGradients.primitive(plan, tile, keyTile), memory + probabilitiesAt, upstreamRows,
              memory + valueGradientAt, reach: reach.queries(.inner))
            lane.multiply(
              multiply.keyGradients.primitive(plan, tile, keyTile), memory + scoreGradientsAt, queryRows,
              memory + keyGradientAt, reach: reach.queries(.inner))
            lane.multiply(
              multiply.queryGradients.primitive(plan, tile, keyTile), memory + scoreGradientsAt, keyRows,
              queryGradient + local * headSize, reach: reach.keys(.inner))
          }
        }
        for row in keys {
          let source = (row - keys.lowerBound) * headSize
          kernels.narrow(
            floats(keyGradientAt) + source, dqkv + operands.bytes(row, operands.key(keyValueHead)), headSize)
          kernels.narrow(
            floats(valueGradientAt) + source, dqkv + operands.bytes(row, operands.value(keyValueHead)), headSize)
        }
      }
      for member in 0..<group {
        for row in segment {
          let source = (member * segment.count + row - segment.lowerBound) * headSize
          kernels.narrow(
            queryGradient + source, dqkv + operands.bytes(row, operands.query(firstHead + member)), headSize)
        }
      }
    }
  }
}
