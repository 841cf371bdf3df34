import Compute

/// The input side: token embedding, and the linear patch codec h = W_in x_t + b + TimeMLP(t) on noised
/// patches (recipe, "Latents and patch codecs"). Shape letters as in Device.swift; C timestep channels.
struct InputUnit {
  let embedding: Weight  // [V, D]
  let patchIn: Weight  // [D, K]
  let patchInBias: Weight  // [D]
  let timeIn: Weight  // [D, C]
  let timeInBias: Weight  // [D]
  let timeOut: Weight  // [D, D]
  let timeOutBias: Weight  // [D]
  /// [noise levels, C] float32
  let sinusoidTable: Tensor

  /// x[T, D]: the token's embedding, or the patch's projection.
  func forward(_ slot: Slot, into x: Tensor, _ c: StageContext) {
    c.device.embed(slot.tokens.prefix(slot.positions), table: embedding.value, into: x)
    guard slot.images > 0 else { return }
    let w = Views(slot, c)
    makeOperands(w, slot, c)
    c.linear(w.noisyOperand, patchIn, into: w.patches)  // [I*P, D]
    c.device.addBias(patchInBias.value, to: w.patches)
    c.linear(w.afterOperand, timeOut, into: w.time)  // [I, D]
    c.device.addBias(timeOutBias.value, to: w.time)
    c.device.addTime(w.time, to: w.patches)
    c.device.scatterRows(w.patches, w.positions, into: x)
  }

  /// The GEMM operands that forward and backward share: noised patches, sinusoids, the hidden layer of the
  /// timestep MLP.
  private func makeOperands(_ w: Views, _ slot: Slot, _ c: StageContext) {
    let images = slot.images
    c.device.addNoise(
      slot.clean.prefix(w.noisy.shape[0]), slot.noise.prefix(w.noisy.shape[0]), signal: slot.signal.prefix(images),
      sigma: slot.sigma.prefix(images), into: w.noisy)
    _ = c.operand(w.noisy, in: w.noisyOperand)  // [I*P, K]
    c.device.gatherRows(sinusoidTable, slot.timesteps.prefix(images), into: w.sinusoids)  // [I, C]
    c.linear(w.sinusoids, timeIn, into: w.before)  // [I, D]
    c.device.addBias(timeInBias.value, to: w.before)
    c.device.silu(w.before, into: w.after)
    _ = c.operand(w.after, in: w.afterOperand)
  }

  /// Adds the weights' gradients from dx[T, D]. The codec's operands are made again: they are small.
  func backward(_ dx: Tensor, _ slot: Slot, gradient: StageGradient, _ c: StageContext) {
    gradient.clear(embedding, patchInBias, timeInBias, timeOutBias, in: c)
    c.device.embedBackward(slot.tokens.prefix(slot.positions), dx, addingTo: embedding.gradient(in: gradient))
    guard slot.images > 0 else { return gradient.clear(patchIn, timeIn, timeOut, in: c) }
    let w = Views(slot, c)
    makeOperands(w, slot, c)

    let dPatches = w.patches
    c.device.gatherRows(dx, w.positions, into: dPatches)  // [I*P, D]
    c.device.addBiasGradient(dPatches, to: patchInBias.gradient(in: gradient))
    c.weightGradient(c.operand(dPatches, in: w.patchesOperand), w.noisyOperand, patchIn, in: gradient)

    let dTime = w.time
    c.device.addTimeBackward(dPatches, into: dTime)  // [I, D]
    let dTimeOperand = c.operand(dTime, in: w.timeOperand)
    c.device.addBiasGradient(dTime, to: timeOutBias.gradient(in: gradient))
    c.weightGradient(dTimeOperand, w.afterOperand, timeOut, in: gradient)

    // Both have served as operands: their memory takes the gradients by `after` and `before`.
    let (dAfter, dBefore) = (w.after, w.time)
    c.linearBackward(dTimeOperand, timeOut, into: dAfter)  // [I, D]
    c.device.siluBackward(dAfter, x: w.before, into: dBefore)
    c.device.addBiasGradient(dBefore, to: timeInBias.gradient(in: gradient))
    c.weightGradient(c.operand(dBefore, in: w.timeOperand), w.sinusoids, timeIn, in: gradient)
  }

  /// The workspace cut to the images of one microbatch.
  private struct Views {
    let noisy, noisyOperand, patches, patchesOperand, positions: Tensor
    let sinusoids, before, after, time, afterOperand, timeOperand: Tensor

    init(_ slot: Slot, _ c: StageContext) {
      guard let w = c.workspace.input else { preconditionFailure("the input side runs on the first stage") }
      let (images, patches) = (slot.images, slot.images * c.model.patchesPerImage)
      noisy = w.noisy.prefix(patches)
      noisyOperand = w.noisyOperand.prefix(patches)
      self.patches = w.patches.prefix(patches)
      patchesOperand = w.patchesOperand.prefix(patches)
      positions = slot.patchPositions.prefix(patches)
      sinusoids = w.sinusoids.prefix(images)
      before = w.before.prefix(images)
      after = w.after.prefix(images)
      time = w.time.prefix(images)
      afterOperand = w.afterOperand.prefix(images)
      timeOperand = w.timeOperand.prefix(images)
    }
  }
}
