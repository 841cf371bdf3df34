import Glibc
import KernelInterface

// Attention by tiles with an online softmax (Dao et al. 2022, arXiv 2205.14135): scores exist one tile at a time, and
// tiles that no interval reaches are never computed. One task is one head and one tile of queries.

extension CPUDevice {
  public func attention(
    _ qkv: Tensor, heads: Int, keyValueHeads: Int, keyStart: Tensor, keyEnd: Tensor, into output: Tensor,
    logSumExp: Tensor
  ) {
    var operands = attentionOperands(qkv, heads, keyValueHeads, keyStart, keyEnd, logSumExp)
    precondition(
      output.type == qkv.type && output.count == operands.tokens * operands.outputStride,
      "attention of \(qkv.type) \(qkv.shape) into \(output.type) \(output.shape)")
    if operands.tokens == 0 { return }
    do throws(DeviceError) {
      if qkv.type == .bfloat16, !multipliesBFloat16 {
        var layout = ScratchLayout()
        let (qkvOffset, outputOffset) = (layout.add(floats: qkv.count), layout.add(floats: output.count))
        let memory = widened.reserve(layout.totalBytes)
        convert(address(qkv), .bfloat16, to: memory + qkvOffset, .float32, count: qkv.count)
        operands.type = .float32
        operands.qkv = Bytes(memory + qkvOffset)
        try attend(operands, memory + outputOffset)
        convert(memory + outputOffset, .float32, to: address(output), .bfloat16, count: output.count)
      } else {
        try attend(operands, address(output))
      }
    } catch { record(error) }
  }

  func attentionOperands(
    _ qkv: Tensor, _ heads: Int, _ keyValueHeads: Int, _ keyStart: Tensor, _ keyEnd: Tensor, _ logSumExp: Tensor
  ) -> AttentionOperands {
    let tokens = qkv.shape[0]
    let headSize = qkv.rowCount / (heads + 2 * keyValueHeads)
    precondition(
      headSize * (heads + 2 * keyValueHeads) == qkv.rowCount && heads % keyValueHeads == 0
        && keyStart.count == tokens && keyEnd.count == tokens && logSumExp.count == heads * tokens,
      "attention of \(qkv.shape) with \(heads) heads, \(keyValueHeads) key-value heads: shapes do not agree")
    return AttentionOperands(
      tokens: tokens, heads: heads, keyValueHeads: keyValueHeads, headSize: headSize, type: qkv.type,
      qkv: Bytes(address(qkv)), keyStart: integers(at: keyStart), keyEnd: integers(at: keyEnd),
      logSumExp: floats(at: logSumExp))
  }

  private func attend(_ operands: AttentionOperands, _ output: MutableBytes) throws(DeviceError) {
    let plan = AttentionPlan(tokens: operands.tokens, keyStart: operands.keyStart, keyEnd: operands.keyEnd)
    let (type, headSize) = (operands.type, operands.headSize)
    let scoreProducts = try AttentionProducts(plan, products) { queries, keys in
      scoreShape(operands, queries, keys, aStride: operands.stride, bStride: operands.stride)
    }
    let valueProducts = try AttentionProducts(plan, products) { queries, keys in
      MatmulShape(
        rows: queries, columns: headSize, inner: keys, operandType: type, resultType: .float32, accumulate: true,
        aStride: keys, bStride: operands.stride, cStride: headSize, transposeA: false, transposeB: false)
    }
    let kernels = typed(type)
    let (queryRows, keyRows) = (plan.queries.size, plan.keys.size)
    var layout = ScratchLayout()
    let scoresAt = layout.add(floats: queryRows * keyRows)
    let probabilitiesAt = layout.add(queryRows * keyRows * type.sizeBytes)
    let accumulatedAt = layout.add(floats: queryRows * headSize)
    let maximumAt = layout.add(floats: queryRows)
    let sumAt = layout.add(floats: queryRows)
    let reachAt = layout.add(TileReach.bytes(plan))

    parallel(operands.heads * plan.queries.count) { index, lane in
      // The last queries see most keys: long tasks first leaves no thread waiting at the end.
      let tile = plan.queries.count - 1 - index / operands.heads
      let head = index % operands.heads
      let rows = plan.queries.range(tile)
      let memory = lane.scratch.reserve(layout.totalBytes)
      func floats(_ offset: Int) -> MutableFloats { (memory + offset).assumingMemoryBound(to: Float.self) }
      let state = SoftmaxState(maximum: floats(maximumAt), sum: floats(sumAt))
      for row in 0..<rows.count {
        state.maximum[row] = -1e30
        state.sum[row] = 0
      }
      memset(memory + accumulatedAt, 0, rows.count * headSize * 4)
      let keyValueHead = head / operands.group
      let reach = TileReach(own[type], plan, in: memory + reachAt)
      for keyTile in plan.keyTiles(seenBy: tile) {
        let keys = plan.keys.range(keyTile)
        let intervals = operands.intervals(rows, keys)
        reach.find(intervals, withKeys: false)
        lane.multiply(
          scoreProducts.primitive(plan, tile, keyTile),
          operands.qkv + operands.bytes(rows.lowerBound, operands.query(head)),
          operands.qkv + operands.bytes(keys.lowerBound, operands.key(keyValueHead)), memory + scoresAt,
          reach: reach.keys(.columns))
        kernels.softmaxTile(
          SoftmaxTile(
            intervals: intervals, scale: operands.scale * 1.442_695_04, scores: floats(scoresAt),
            probabilities: memory + probabilitiesAt,
            output: floats(accumulatedAt), headSize: headSize, state: state))
        lane.multiply(
          valueProducts.primitive(plan, tile, keyTile), memory + probabilitiesAt,
          operands.qkv + operands.bytes(keys.lowerBound, operands.value(keyValueHead)), memory + accumulatedAt,
          reach: reach.keys(.inner))
      }
      kernels.softmaxFinish(
        floats(accumulatedAt), state, output + operands.outputBytes(rows.lowerBound, head), operands.outputStride,
        operands.logSumExp + head * operands.tokens + rows.lowerBound, rows.count, headSize)
    }
  }

  /// [rows, E] times [columns, E] transposed.
  func scoreShape(_ operands: AttentionOperands, _ rows: Int, _ columns: Int, aStride: Int, bStride: Int)
    -> MatmulShape
  {
    MatmulShape(
      rows: rows, columns: columns, inner: operands.headSize, operandType: operands.type, resultType: .float32,
      accumulate: false, aStride: aStride, bStride: bStride, cStride: columns, transposeA: false, transposeB: true)
  }
}
