import Glibc
import KernelInterface

extension CPUDevice {
  /// Columns that one thread takes at a time in sums over rows.
  private static var blockColumns: Int { 64 }

  public func addBias(_ bias: Tensor, to rows: Tensor) {
    let (count, width) = (rows.shape[0], rows.rowCount)
    precondition(bias.count == width, "bias of \(bias.count) elements on rows of \(width)")
    let (addend, target, kernel, size) = (
      floats(at: bias), address(rows), typed(rows.type).addBias, rows.type.sizeBytes
    )
    forEachBlock(of: count, size: blockRows(width)) { range in
      kernel(addend, target + range.lowerBound * width * size, range.count, width)
    }
  }

  public func addBiasGradient(_ rows: Tensor, to gradient: Tensor) {
    let (count, width) = (rows.shape[0], rows.rowCount)
    precondition(gradient.count == width, "bias gradient of \(gradient.count) elements from rows of \(width)")
    let (source, sums, kernel, size) = (
      address(rows), floats(at: gradient), typed(rows.type).addColumnSums, rows.type.sizeBytes
    )
    forEachBlock(of: width, size: Self.blockColumns) { columns in
      kernel(source + columns.lowerBound * size, count, width, columns.count, sums + columns.lowerBound)
    }
  }

  public func embed(_ tokens: Tensor, table: Tensor, into rows: Tensor) {
    let (count, width) = (rows.shape[0], rows.rowCount)
    precondition(tokens.count == count && table.rowCount == width, "embedding shapes do not agree")
    let (ids, source, target) = (integers(at: tokens), floats(at: table), floats(at: rows))
    let vocabulary = table.shape[0]
    forEachBlock(of: count, size: blockRows(width)) { range in
      for row in range {
        let id = Int(ids[row])
        let destination = target + row * width
        if id < 0 {
          memset(destination, 0, width * 4)
        } else {
          precondition(id < vocabulary, "token \(id) is outside a vocabulary of \(vocabulary)")
          memcpy(destination, source + id * width, width * 4)
        }
      }
    }
  }

  public func embedBackward(_ tokens: Tensor, _ rows: Tensor, addingTo gradient: Tensor) {
    let (count, width) = (rows.shape[0], rows.rowCount)
    precondition(tokens.count == count && gradient.rowCount == width, "embedding gradient shapes do not agree")
    let (ids, source, target) = (integers(at: tokens), floats(at: rows), floats(at: gradient))
    let vocabulary = gradient.shape[0]
    forEachBlock(of: width, size: Self.blockColumns) { columns in
      for row in 0..<count where ids[row] >= 0 {
        let id = Int(ids[row])
        precondition(id < vocabulary, "token \(id) is outside a vocabulary of \(vocabulary)")
        kernels.plain.add(
          source + row * width + columns.lowerBound, target + id * width + columns.lowerBound, columns.count)
      }
    }
  }

  public func gatherRows(_ source: Tensor, _ indices: Tensor, into destination: Tensor) {
    moveRows(indices, from: source, to: destination, gathering: true)
  }

  public func scatterRows(_ source: Tensor, _ indices: Tensor, into destination: Tensor) {
    moveRows(indices, from: source, to: destination, gathering: false)
  }

  private func moveRows(_ indices: Tensor, from source: Tensor, to destination: Tensor, gathering: Bool) {
    let width = source.rowCount
    let count = indices.count
    precondition(
      destination.rowCount == width && (gathering ? destination : source).shape[0] == count,
      "rows of \(source.shape) and \(destination.shape) by \(count) indices")
    let (rows, from, to) = (integers(at: indices), address(source), address(destination))
    let (fromType, toType) = (source.type, destination.type)
    let limit = (gathering ? source : destination).shape[0]
    forEachBlock(of: count, size: blockRows(width)) { range in
      for index in range {
        let row = Int(rows[index])
        precondition(row >= 0 && row < limit, "row index \(row) is outside 0..<\(limit)")
        let (fromRow, toRow) = gathering ? (row, index) : (index, row)
        convertRun(
          from + fromRow * width * fromType.sizeBytes, fromType, to: to + toRow * width * toType.sizeBytes, toType,
          count: width)
      }
    }
  }

  public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Float, into y: Tensor, inverse: Tensor) {
    let (count, width) = (x.shape[0], x.rowCount)
    precondition(
      y.count == x.count && weight.count == width && inverse.count == count, "RMS norm shapes do not agree")
    let (input, scale, output, kept) = (floats(at: x), floats(at: weight), address(y), floats(at: inverse))
    let (kernel, size) = (typed(y.type).rmsNorm, y.type.sizeBytes)
    forEachBlock(of: count, size: blockRows(width)) { range in
      let start = range.lowerBound * width
      kernel(input + start, scale, epsilon, output + start * size, kept + range.lowerBound, range.count, width)
    }
  }

  public func rmsNormBackward(
    _ dy: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, addingTo dx: Tensor, weightGradient: Tensor
  ) {
    let (count, width) = (x.shape[0], x.rowCount)
    precondition(
      dy.count == x.count && dx.count == x.count && weight.count == width && inverse.count == count
        && weightGradient.count == width, "RMS norm gradient shapes do not agree")
    let (gradient, input, scale, kept) = (address(dy), floats(at: x), floats(at: weight), floats(at: inverse))
    let (result, sums) = (floats(at: dx), floats(at: weightGradient))
    let (kernel, size) = (typed(dy.type).rmsNormBackward, dy.type.sizeBytes)
    let cut = TileCut(total: count, size: 32)
    let partials = scratch.reserve(cut.count * width * 4).assumingMemoryBound(to: Float.self)
    pool.parallelFor(cut.count) { block, _ in
      let range = cut.range(block)
      let start = range.lowerBound * width
      kernel(
        gradient + start * size, input + start, scale, kept + range.lowerBound, result + start,
        partials + block * width, range.count, width)
    }
    let addSums = kernels.float32.addColumnSums
    forEachBlock(of: width, size: Self.blockColumns) { columns in
      addSums(partials + columns.lowerBound, cut.count, width, columns.count, sums + columns.lowerBound)
    }
  }

  public func rotate(
    _ qkv: Tensor, heads: Int, keyValueHeads: Int, cosine: Tensor, sine: Tensor, inverse: Bool
  ) {
    let (count, width) = (qkv.shape[0], qkv.rowCount)
    let headSize = width / (heads + 2 * keyValueHeads)
    precondition(
      headSize * (heads + 2 * keyValueHeads) == width && headSize % 2 == 0 && cosine.count == count * headSize / 2
        && sine.count == cosine.count, "rotation shapes do not agree")
    let (rows, cosines, sines) = (address(qkv), floats(at: cosine), floats(at: sine))
    let (kernel, size) = (typed(qkv.type).rotate, qkv.type.sizeBytes)
    forEachBlock(of: count, size: blockRows(width)) { range in
      let angles = range.lowerBound * headSize / 2
      kernel(
        rows + range.lowerBound * width * size, range.count, width, heads + keyValueHeads, headSize, cosines + angles,
        sines + angles, inverse)
    }
  }

  public func addNoise(_ clean: Tensor, _ noise: Tensor, signal: Tensor, sigma: Tensor, into noisy: Tensor) {
    let images = signal.count
    if images == 0 { return }
    precondition(
      noise.count == clean.count && noisy.count == clean.count && sigma.count == images
        && clean.count % images == 0, "noise shapes do not agree")
    let elements = clean.count / images
    let (x, e, result) = (floats(at: clean), floats(at: noise), floats(at: noisy))
    let (signals, sigmas) = (floats(at: signal), floats(at: sigma))
    pool.parallelFor(images) { image, _ in
      let start = image * elements
      kernels.plain.mix(x + start, e + start, signals[image], sigmas[image], result + start, elements)
    }
  }

  public func addTime(_ time: Tensor, to patches: Tensor) {
    let (images, width) = (time.shape[0], time.rowCount)
    if images == 0 { return }
    precondition(
      patches.rowCount == width && patches.shape[0] % images == 0, "time \(time.shape) on patches \(patches.shape)")
    let perImage = patches.shape[0] / images
    let (source, target) = (floats(at: time), floats(at: patches))
    pool.parallelFor(images) { image, _ in
      kernels.float32.addBias(source + image * width, target + image * perImage * width, perImage, width)
    }
  }

  public func addTimeBackward(_ dPatches: Tensor, into dTime: Tensor) {
    let (images, width) = (dTime.shape[0], dTime.rowCount)
    if images == 0 { return }
    precondition(
      dPatches.rowCount == width && dPatches.shape[0] % images == 0,
      "time gradient \(dTime.shape) from patches \(dPatches.shape)")
    let perImage = dPatches.shape[0] / images
    let (source, target) = (floats(at: dPatches), address(dTime))
    let type = dTime.type
    let lanes = lanes
    pool.parallelFor(images) { image, slot in
      let sums = lanes[slot].scratch.reserve(width * 4).assumingMemoryBound(to: Float.self)
      memset(sums, 0, width * 4)
      kernels.float32.addColumnSums(source + image * perImage * width, perImage, width, width, sums)
      convertRun(sums, .float32, to: target + image * width * type.sizeBytes, type, count: width)
    }
  }
}
