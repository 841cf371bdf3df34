import Glibc
import KernelInterface

// M selected rows, D width, V vocabulary.

extension CPUDevice {
  /// Rows whose logits exist at one time in float32.
  private static var logitRows: Int { 128 }
  /// Rows whose logit gradients exist at one time in the compute type: the weight gradient is read and written
  /// once for each such chunk.
  private static var chunkRows: Int { 512 }

  public func headLoss(_ hidden: Tensor, weight: Tensor, targets: Tensor, losses: Tensor, gradient: HeadGradient?) {
    let (count, width, vocabulary) = (hidden.shape[0], hidden.rowCount, weight.shape[0])
    precondition(
      weight.rowCount == width && targets.count == count && losses.count == count && hidden.type == weight.type
        && (gradient.map { $0.dHidden.count == hidden.count && $0.weightGradient.count == weight.count } ?? true),
      "head loss of \(hidden.type) \(hidden.shape) and \(weight.type) \(weight.shape): shapes do not agree")
    if count == 0 { return }
    let ids = integers(at: targets)
    for row in 0..<count {
      precondition(
        ids[row] >= 0 && ids[row] < vocabulary, "target \(ids[row]) is outside a vocabulary of \(vocabulary)")
    }
    var call = HeadLossCall(
      count: count, width: width, vocabulary: vocabulary, type: hidden.type, hidden: Bytes(address(hidden)),
      weight: Bytes(address(weight)), targets: ids, losses: floats(at: losses), scale: gradient?.scale ?? 0,
      dHidden: gradient.map { floats(at: $0.dHidden) }, weightGradient: gradient.map { floats(at: $0.weightGradient) },
      adds: gradient?.adds ?? false)
    if hidden.type == .bfloat16, !multipliesBFloat16 {
      var layout = ScratchLayout()
      let (hiddenAt, weightAt) = (layout.add(floats: hidden.count), layout.add(floats: weight.count))
      let memory = widened.reserve(layout.totalBytes)
      convert(address(hidden), .bfloat16, to: memory + hiddenAt, .float32, count: hidden.count)
      convert(address(weight), .bfloat16, to: memory + weightAt, .float32, count: weight.count)
      call.type = .float32
      call.hidden = Bytes(memory + hiddenAt)
      call.weight = Bytes(memory + weightAt)
    }
    run(call)
  }

  /// Operands of one `headLoss`; raw pointers hold elements of `type`.
  private struct HeadLossCall {
    var count, width, vocabulary: Int
    var type: ElementType
    var hidden: Bytes
    var weight: Bytes
    var targets: UnsafePointer<Int32>
    var losses: MutableFloats
    var scale: Float
    var dHidden: MutableFloats?
    var weightGradient: MutableFloats?
    var adds: Bool

    /// rows x columns x inner of a product of this call: `a` and `c` are scratch or whole tensors, all dense.
    func product(
      _ rows: Int, _ columns: Int, _ inner: Int, transposeA: Bool = false, transposeB: Bool = false
    ) -> MatmulShape {
      MatmulShape(
        rows: rows, columns: columns, inner: inner, operandType: type, resultType: .float32,
        aStride: transposeA ? rows : inner, bStride: transposeB ? inner : columns, cStride: columns,
        transposeA: transposeA, transposeB: transposeB)
    }
  }

  /// Rows are padded with zeros to whole blocks of `logitRows`, so that few shapes are compiled whatever M is;
  /// padded rows have zero gradients.
  private func run(_ call: HeadLossCall) {
    let (width, vocabulary, size) = (call.width, call.vocabulary, call.type.sizeBytes)
    let wanted = call.dHidden != nil
    let blocks = TileCut(total: call.count, size: Self.logitRows).count
    let chunk = min(Self.chunkRows, blocks * Self.logitRows)
    var layout = ScratchLayout()
    let logitsAt = layout.add(floats: Self.logitRows * vocabulary)
    let hiddenAt = layout.add(chunk * width * size)
    let logitGradientsAt = layout.add(wanted ? chunk * vocabulary * size : 0)
    let dHiddenAt = layout.add(floats: wanted ? chunk * width : 0)
    let memory = scratch.reserve(layout.totalBytes)
    let logits = (memory + logitsAt).assumingMemoryBound(to: Float.self)
    let kernel = typed(call.type).crossEntropy

    for first in stride(from: 0, to: call.count, by: chunk) {
      let real = min(chunk, call.count - first)
      let padded = (real + Self.logitRows - 1) / Self.logitRows * Self.logitRows
      memcpy(memory + hiddenAt, call.hidden + first * width * size, real * width * size)
      memset(memory + hiddenAt + real * width * size, 0, (padded - real) * width * size)
      for block in stride(from: 0, to: padded, by: Self.logitRows) {
        multiply(
          call.product(Self.logitRows, vocabulary, width, transposeB: true), memory + hiddenAt + block * width * size,
          call.weight, nil, memory + logitsAt)
        pool.parallelFor(Self.logitRows) { row, _ in
          let target = memory + logitGradientsAt + (block + row) * vocabulary * size
          if block + row >= real {
            if wanted { memset(target, 0, vocabulary * size) }
            return
          }
          let index = first + block + row
          call.losses[index] = kernel(
            logits + row * vocabulary, vocabulary, Int(call.targets[index]), call.scale, wanted ? target : nil)
        }
      }
      guard let dHidden = call.dHidden, let weightGradient = call.weightGradient else { continue }
      multiply(
        call.product(padded, width, vocabulary), memory + logitGradientsAt, call.weight, nil, memory + dHiddenAt)
      memcpy(dHidden + first * width, memory + dHiddenAt, real * width * 4)
      multiply(
        call.product(vocabulary, width, padded, transposeA: true), memory + logitGradientsAt, memory + hiddenAt,
        call.adds || first > 0 ? Floats(weightGradient) : nil,
        MutableBytes(weightGradient))
    }
  }

  public func squaredError(_ prediction: Tensor, target: Tensor, losses: Tensor, gradient: Tensor?, scale: Float) {
    let images = losses.count
    if images == 0 { return }
    let elements = prediction.count / images
    precondition(
      prediction.count == images * elements && target.count == prediction.count
        && (gradient.map { $0.count == prediction.count } ?? true), "squared error shapes do not agree")
    let (guess, truth, results) = (floats(at: prediction), floats(at: target), floats(at: losses))
    let slopes = gradient.map { floats(at: $0) }
    // Rows of 256 elements: float32 sums within, float64 across.
    let row = 256
    pool.parallelFor(images) { image, _ in
      let start = image * elements
      let factor = scale * 2 / Float(elements)
      let whole = elements / row
      var sum = kernels.plain.squaredError(
        guess + start, truth + start, factor, slopes.map { $0 + start }, whole, row)
      let rest = start + whole * row
      sum += kernels.plain.squaredError(
        guess + rest, truth + rest, factor, slopes.map { $0 + rest }, 1, elements - whole * row)
      results[image] = Float(sum / Double(elements))
    }
  }
}
