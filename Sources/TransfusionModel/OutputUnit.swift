import Compute

/// The output side: final norm, token head with cross-entropy, patch head with squared error (recipe,
/// "Objective"). Only the S = M + I*P rows that carry a loss are normed and projected: first the M target
/// positions, then the patches. Shape letters as in Device.swift.
struct OutputUnit {
  let norm: Weight  // [D]
  let head: Weight  // [V, D]
  let patchOut: Weight  // [K, D]
  let patchOutBias: Weight  // [K]

  /// Normed rows and predicted noise from x[T, D].
  func forward(_ x: Tensor, _ slot: Slot, _ c: StageContext) {
    let w = Views(slot, c)
    guard w.rows > 0 else { return }
    c.device.gatherRows(x, w.positions, into: w.selected)  // [S, D]
    c.norm(w.selected, norm, into: w.normed, inverse: w.inverse)
    guard slot.images > 0 else { return }
    c.linear(w.patchNormed, patchOut, into: w.prediction)  // [I*P, K]
    c.device.addBias(patchOutBias.value, to: w.prediction)
  }

  /// Losses of every target and image, after `forward`; no gradient.
  func losses(_ slot: Slot, _ c: StageContext) {
    let w = Views(slot, c)
    if slot.targets > 0 {
      c.device.headLoss(w.tokenNormed, weight: head.operand, targets: w.targets, losses: w.tokenLosses, gradient: nil)
    }
    if slot.images > 0 {
      c.device.squaredError(w.prediction, target: w.noise, losses: w.imageLosses, gradient: nil, scale: 0)
    }
  }

  /// Losses, dx[T, D] and the weights' gradients, after `forward`. The loss is (sum of token losses) /
  /// targets + lambda (sum of image losses) / images, with the counts of the whole step.
  func backward(
    _ slot: Slot, into dx: Tensor, gradient: StageGradient, denominators: Denominators, _ c: StageContext
  ) {
    let w = Views(slot, c)
    gradient.clear(norm, patchOutBias, in: c)
    if slot.targets == 0 { gradient.clear(head, in: c) }
    if slot.images == 0 { gradient.clear(patchOut, in: c) }
    guard w.rows > 0 else { return c.device.fill(dx, with: 0) }

    if slot.targets > 0 {
      precondition(denominators.targetTokens > 0, "a step without targets has a microbatch with some")
      // The head's gradient by its input is float32; in bfloat16 it passes through dSelected's memory.
      let dHidden = c.precision == .float32 ? w.tokenDNormed : w.dSelected.prefix(slot.targets)
      c.device.headLoss(
        w.tokenNormed, weight: head.operand, targets: w.targets, losses: w.tokenLosses,
        gradient: HeadGradient(
          scale: Float(1 / Double(denominators.targetTokens)), dHidden: dHidden,
          weightGradient: head.gradient(in: gradient), adds: gradient.adds))
      _ = c.operand(dHidden, in: w.tokenDNormed)  // [M, D]
    }
    if slot.images > 0 {
      precondition(denominators.images > 0, "a step without images has a microbatch with some")
      c.device.squaredError(
        w.prediction, target: w.noise, losses: w.imageLosses, gradient: w.dPrediction,
        scale: Float(c.model.diffusionWeight / Double(denominators.images)))
      let dPrediction = c.operand(w.dPrediction, in: w.dPredictionOperand)  // [I*P, K]
      c.device.addBiasGradient(w.dPrediction, to: patchOutBias.gradient(in: gradient))
      c.weightGradient(dPrediction, w.patchNormed, patchOut, in: gradient)
      c.linearBackward(dPrediction, patchOut, into: w.patchDNormed)  // [I*P, D]
    }
    c.device.fill(w.dSelected, with: 0)
    c.device.rmsNormBackward(
      w.dNormed, x: w.selected, weight: norm.value, inverse: w.inverse, addingTo: w.dSelected,
      weightGradient: norm.gradient(in: gradient))
    // What was selected was there until now.
    c.device.fill(dx, with: 0)
    c.device.scatterRows(w.dSelected, w.positions, into: dx)
  }

  /// Logits [M, V] float32 of the target positions, after `forward`; training never holds them all.
  func logits(_ slot: Slot, into logits: Tensor, _ c: StageContext) {
    guard slot.targets > 0 else { return }
    c.linear(Views(slot, c).tokenNormed, head, into: logits)
  }

  /// Predicted noise [I*P, K] of the last `forward`.
  func prediction(_ slot: Slot, _ c: StageContext) -> Tensor { Views(slot, c).prediction }

  /// The workspace cut to the losses of one microbatch.
  private struct Views {
    let rows: Int
    let positions, selected, dSelected, inverse, normed, dNormed: Tensor
    let tokenNormed, tokenDNormed, targets, tokenLosses: Tensor
    let patchNormed, patchDNormed, prediction, dPrediction, dPredictionOperand, noise, imageLosses: Tensor

    init(_ slot: Slot, _ c: StageContext) {
      guard let w = c.workspace.output else { preconditionFailure("the output side runs on the last stage") }
      let patches = slot.images * c.model.patchesPerImage
      let (targets, rows) = (slot.targets, slot.targets + patches)
      self.rows = rows
      positions = slot.lossPositions.prefix(rows)
      // In the memory of what they become in the end: the gradient by x.
      selected = slot.gradient.prefix(rows)
      dSelected = w.dSelected.prefix(rows)
      inverse = w.inverse.prefix(rows)
      normed = w.normed.prefix(rows)
      dNormed = w.dNormed.prefix(rows)
      tokenNormed = w.normed.prefix(targets)
      tokenDNormed = w.dNormed.prefix(targets)
      self.targets = slot.targetTokens.prefix(targets)
      tokenLosses = slot.tokenLosses.prefix(targets)
      patchNormed = w.normed.rows(targets..<rows)
      patchDNormed = w.dNormed.rows(targets..<rows)
      prediction = w.prediction.prefix(patches)
      dPrediction = w.dPrediction.prefix(patches)
      dPredictionOperand = w.dPredictionOperand.prefix(patches)
      noise = slot.noise.prefix(patches)
      imageLosses = slot.imageLosses.prefix(slot.images)
    }
  }
}
