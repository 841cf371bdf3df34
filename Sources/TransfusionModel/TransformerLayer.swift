import Compute

/// A Llama block: x + Attention(RMSNorm(x)), then + SwiGLU(RMSNorm(.)) (recipe, "Transformer").
///
/// Shape letters as in Device.swift. Residual stream and its gradient are float32, all operands of GEMMs and
/// attention have the compute type.
struct TransformerLayer {
  let inputNorm: Weight  // [D]
  let queryKeyValue: Weight  // [(H+2G)E, D]
  let attentionOut: Weight  // [D, HE]
  let feedForwardNorm: Weight  // [D]
  let gateUp: Weight  // [2F, D]
  let down: Weight  // [D, F]

  /// y[T, D] from x[T, D]; what the backward pass needs goes to `keep`.
  func forward(_ x: Tensor, into y: Tensor, keep a: LayerActivations, keys: KeyIntervals, _ c: StageContext) {
    fillActivations(a, from: x, keys: keys, c)
    let swiGLU = c.workspace.swiGLU.prefix(x.shape[0])
    c.device.swiGLU(a.gateUp, into: swiGLU)  // [T, F]
    c.linear(swiGLU, down, adding: a.middle, into: y)  // [T, D]
  }

  /// Everything of the forward pass but its last projection: what a recomputing backward pass repeats.
  /// - Parameter keys: nil where attention's output has been kept.
  func fillActivations(_ a: LayerActivations, from x: Tensor, keys: KeyIntervals?, _ c: StageContext) {
    let (heads, keyValueHeads) = (c.model.heads, c.model.keyValueHeads)
    let rows = x.shape[0]
    let normed = c.workspace.normed.prefix(rows)

    c.norm(x, inputNorm, into: normed, inverse: a.inverse)  // [T, D]
    c.linear(normed, queryKeyValue, into: a.queryKeyValue)  // [T, (H+2G)E]
    c.device.rotate(
      a.queryKeyValue, heads: heads, keyValueHeads: keyValueHeads, cosine: c.cosine.prefix(rows),
      sine: c.sine.prefix(rows), inverse: false)
    if let keys {
      c.device.attention(
        a.queryKeyValue, heads: heads, keyValueHeads: keyValueHeads, keyStart: keys.start, keyEnd: keys.end,
        into: a.attention, logSumExp: a.logSumExp)  // [T, HE]
    }
    c.linear(a.attention, attentionOut, adding: x, into: a.middle)  // [T, D]

    c.norm(a.middle, feedForwardNorm, into: normed, inverse: a.middleInverse)  // [T, D]
    c.linear(normed, gateUp, into: a.gateUp)  // [T, 2F]
  }

  /// Turns d[T, D], the gradient by the layer's output, into that by its input x, and adds the weights'
  /// gradients. Norms and SwiGLU are cheap: their outputs are made again rather than kept.
  func backward(
    _ d: Tensor, x: Tensor, kept a: LayerActivations, keys: KeyIntervals, gradient: StageGradient, _ c: StageContext
  ) {
    let (heads, keyValueHeads) = (c.model.heads, c.model.keyValueHeads)
    let rows = x.shape[0]
    let w = c.workspace
    gradient.clear(inputNorm, feedForwardNorm, in: c)
    let (normed, dNarrow) = (w.normed.prefix(rows), w.dNarrow.prefix(rows))
    let swiGLU = w.swiGLU.prefix(rows)
    let dQueryKeyValue = w.dQueryKeyValue.prefix(rows)

    // y = middle + swiGLU(gateUp) Wdown^T
    var dy = c.operand(d, in: w.narrow.prefix(c.precision == .float32 ? 0 : rows))  // [T, D]
    c.linearBackward(dy, down, into: swiGLU)  // [T, F]
    let dGateUp = a.gateUp  // [T, 2F]
    c.device.swiGLUBackward(swiGLU, gateUp: a.gateUp, into: dGateUp, output: swiGLU)
    c.weightGradient(dy, swiGLU, down, in: gradient)
    // gateUp = norm(middle) Wgu^T
    c.norm(a.middle, feedForwardNorm, into: normed, inverse: a.middleInverse)
    c.weightGradient(dGateUp, normed, gateUp, in: gradient)
    c.linearBackward(dGateUp, gateUp, into: dNarrow)  // [T, D]
    c.device.rmsNormBackward(
      dNarrow, x: a.middle, weight: feedForwardNorm.value, inverse: a.middleInverse, addingTo: d,
      weightGradient: feedForwardNorm.gradient(in: gradient))

    // middle = x + attention(q, k, v) Wo^T; d is now the gradient by middle
    dy = c.operand(d, in: w.narrow.prefix(c.precision == .float32 ? 0 : rows))
    c.weightGradient(dy, a.attention, attentionOut, in: gradient)
    c.linearBackward(dy, attentionOut, into: dNarrow)  // [T, HE]
    c.device.attentionBackward(
      dNarrow, qkv: a.queryKeyValue, output: a.attention, logSumExp: a.logSumExp, heads: heads,
      keyValueHeads: keyValueHeads, keyStart: keys.start, keyEnd: keys.end, into: dQueryKeyValue)
    c.device.rotate(
      dQueryKeyValue, heads: heads, keyValueHeads: keyValueHeads, cosine: c.cosine.prefix(rows),
      sine: c.sine.prefix(rows), inverse: true)
    // (q, k, v) = norm(x) Wqkv^T
    c.norm(x, inputNorm, into: normed, inverse: a.inverse)
    c.weightGradient(dQueryKeyValue, normed, queryKeyValue, in: gradient)
    c.linearBackward(dQueryKeyValue, queryKeyValue, into: dNarrow)  // [T, D]
    c.device.rmsNormBackward(
      dNarrow, x: x, weight: inputNorm.value, inverse: a.inverse, addingTo: d,
      weightGradient: inputNorm.gradient(in: gradient))
  }
}
