import Glibc
import KernelInterface

extension CPUDevice {
  /// Elements that one thread takes at a time in element-wise operations.
  private static var blockElements: Int { 32_768 }

  public func fill(_ tensor: Tensor, with value: Float) {
    let target = address(tensor)
    let size = tensor.type.sizeBytes
    let type = tensor.type
    forEachBlock(of: tensor.count, size: Self.blockElements) { range in
      let start = target + range.lowerBound * size
      if value == 0, value.sign == .plus {
        memset(start, 0, range.count * size)
        return
      }
      switch type {
      case .float32: start.assumingMemoryBound(to: Float.self).update(repeating: value, count: range.count)
      case .float64: start.assumingMemoryBound(to: Double.self).update(repeating: Double(value), count: range.count)
      case .int32: start.assumingMemoryBound(to: Int32.self).update(repeating: Int32(value), count: range.count)
      case .bfloat16:
        var wide = value
        var narrow: UInt16 = 0
        kernels.bfloat16.narrow(&wide, &narrow, 1)
        start.assumingMemoryBound(to: UInt16.self).update(repeating: narrow, count: range.count)
      }
    }
  }

  public func copy(_ source: Tensor, to destination: Tensor) {
    precondition(source.count == destination.count, "copy of \(source.shape) to \(destination.shape)")
    convert(address(source), source.type, to: address(destination), destination.type, count: source.count)
  }

  /// Copies elements, converting between float types.
  func convert(_ source: Bytes, _ from: ElementType, to destination: MutableBytes, _ to: ElementType, count: Int) {
    forEachBlock(of: count, size: Self.blockElements) { range in
      convertRun(
        source + range.lowerBound * from.sizeBytes, from, to: destination + range.lowerBound * to.sizeBytes, to,
        count: range.count)
    }
  }

  /// The same on the calling thread.
  func convertRun(_ source: Bytes, _ from: ElementType, to destination: MutableBytes, _ to: ElementType, count: Int) {
    switch (from, to) {
    case _ where from == to: memmove(destination, source, count * from.sizeBytes)
    case (.float32, .bfloat16): kernels.bfloat16.narrow(source.assumingMemoryBound(to: Float.self), destination, count)
    case (.bfloat16, .float32): kernels.bfloat16.widen(source, destination.assumingMemoryBound(to: Float.self), count)
    case (.float64, .float32):
      for index in 0..<count {
        let value = source.load(fromByteOffset: index * 8, as: Double.self)
        destination.storeBytes(of: Float(value), toByteOffset: index * 4, as: Float.self)
      }
    case (.float32, .float64):
      for index in 0..<count {
        let value = source.load(fromByteOffset: index * 4, as: Float.self)
        destination.storeBytes(of: Double(value), toByteOffset: index * 8, as: Double.self)
      }
    default: preconditionFailure("no conversion from \(from) to \(to)")
    }
  }

  public func add(_ source: Tensor, to destination: Tensor) {
    precondition(source.count == destination.count, "add of \(source.shape) to \(destination.shape)")
    let (from, to) = (floats(at: source), floats(at: destination))
    forEachBlock(of: source.count, size: Self.blockElements) { range in
      kernels.plain.add(from + range.lowerBound, to + range.lowerBound, range.count)
    }
  }

  public func silu(_ x: Tensor, into y: Tensor) {
    precondition(x.count == y.count && x.type == y.type, "silu of \(x.type) \(x.shape) into \(y.type) \(y.shape)")
    let kernel = typed(x.type).silu
    let (input, output, size) = (address(x), address(y), x.type.sizeBytes)
    forEachBlock(of: x.count, size: Self.blockElements) { range in
      kernel(input + range.lowerBound * size, output + range.lowerBound * size, range.count)
    }
  }

  public func siluBackward(_ dy: Tensor, x: Tensor, into dx: Tensor) {
    precondition(
      dy.count == x.count && dx.count == x.count && dy.type == x.type && dx.type == x.type,
      "silu gradient: dy \(dy.type) \(dy.shape), x \(x.type) \(x.shape), dx \(dx.type) \(dx.shape)")
    let kernel = typed(x.type).siluBackward
    let (gradient, input, result, size) = (address(dy), address(x), address(dx), x.type.sizeBytes)
    forEachBlock(of: x.count, size: Self.blockElements) { range in
      let start = range.lowerBound * size
      kernel(gradient + start, input + start, result + start, range.count)
    }
  }

  public func swiGLU(_ gateUp: Tensor, into output: Tensor) {
    let (rows, width) = (output.shape[0], output.rowCount)
    precondition(
      gateUp.count == 2 * output.count && gateUp.shape[0] == rows && gateUp.type == output.type,
      "SwiGLU of \(gateUp.type) \(gateUp.shape) into \(output.type) \(output.shape)")
    let kernel = typed(gateUp.type).swiGLU
    let (input, result, size) = (address(gateUp), address(output), gateUp.type.sizeBytes)
    forEachBlock(of: rows, size: blockRows(width)) { range in
      let start = range.lowerBound * width * size
      kernel(input + 2 * start, result + start, range.count, width)
    }
  }

  public func swiGLUBackward(_ dOutput: Tensor, gateUp: Tensor, into dGateUp: Tensor, output: Tensor) {
    let (rows, width) = (dOutput.shape[0], dOutput.rowCount)
    precondition(
      gateUp.count == 2 * dOutput.count && dGateUp.count == gateUp.count && gateUp.type == dOutput.type
        && dGateUp.type == gateUp.type && output.count == dOutput.count && output.type == gateUp.type,
      "SwiGLU gradient: output \(dOutput.type) \(dOutput.shape), input \(gateUp.type) \(gateUp.shape)")
    let kernel = typed(gateUp.type).swiGLUBackward
    let (gradient, input, result) = (address(dOutput), address(gateUp), address(dGateUp))
    let (again, size) = (address(output), gateUp.type.sizeBytes)
    forEachBlock(of: rows, size: blockRows(width)) { range in
      let start = range.lowerBound * width * size
      kernel(gradient + start, input + 2 * start, result + 2 * start, again + start, range.count, width)
    }
  }

  public func adamW(
    _ parameter: Tensor, gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, computeCopy: Tensor?,
    _ step: AdamWStep
  ) {
    let count = parameter.count
    precondition(
      gradient.count == count && firstMoment.count == count && secondMoment.count == count
        && (computeCopy.map { $0.count == count && $0.type == .bfloat16 } ?? true), "AdamW operands differ in size")
    let (p, g) = (floats(at: parameter), floats(at: gradient))
    let (m, v) = (floats(at: firstMoment), floats(at: secondMoment))
    let copy = computeCopy.map { address($0) }
    forEachBlock(of: count, size: Self.blockElements) { range in
      let start = range.lowerBound
      kernels.plain.adamW(
        AdamWSlice(
          parameter: p + start, gradient: g + start, firstMoment: m + start, secondMoment: v + start,
          computeCopy: copy.map { $0 + start * 2 }, count: range.count, decay: 1 - step.learningRate * step.weightDecay,
          stepSize: step.learningRate / step.correction1,
          secondMomentScale: 1 / step.correction2.squareRoot(), beta1: step.beta1, beta2: step.beta2,
          epsilon: step.epsilon, gradientScale: step.gradientScale))
    }
  }

  public func sumOfSquares(_ tensor: Tensor, into result: Tensor, at index: Int) {
    precondition(result.type == .float64 && index < result.count, "sums of squares are kept in float64")
    let values = floats(at: tensor)
    let cut = TileCut(total: tensor.count, size: 4_096)
    let partial = scratch.reserve(cut.count * 8).assumingMemoryBound(to: Double.self)
    // Blocks in runs of 16, so that the threads do not write to the same cache line.
    forEachBlock(of: cut.count, size: 16) { blocks in
      for block in blocks {
        let range = cut.range(block)
        partial[block] = kernels.plain.sumOfSquares(values + range.lowerBound, range.count)
      }
    }
    var total = 0.0
    for block in 0..<cut.count { total += partial[block] }
    address(result).storeBytes(of: total, toByteOffset: index * 8, as: Double.self)
  }
}
