// Shape letters as in Device.swift.

extension ReferenceDevice {
  public func embed(_ tokens: Tensor, table: Tensor, into rows: Tensor) {
    let d = table.rowCount
    precondition(rows.shape[0] == tokens.count && rows.rowCount == d, "embed: shapes differ")
    enqueue([rows]) {
      for t in 0..<tokens.count {
        let token = Int(tokens.integers[t])
        precondition(token < table.shape[0], "embed: token \(token) outside the table")
        for i in 0..<d { rows.floats[t * d + i] = token < 0 ? 0 : table.floats[token * d + i] }
      }
    }
  }

  public func embedBackward(_ tokens: Tensor, _ rows: Tensor, addingTo gradient: Tensor) {
    let d = gradient.rowCount
    precondition(rows.shape[0] == tokens.count && rows.rowCount == d, "embedBackward: shapes differ")
    enqueue([gradient]) {
      for t in 0..<tokens.count {
        let token = Int(tokens.integers[t])
        precondition(token < gradient.shape[0], "embedBackward: token \(token) outside the table")
        if token < 0 { continue }
        for i in 0..<d { gradient.floats[token * d + i] += rows.floats[t * d + i] }
      }
    }
  }

  public func gatherRows(_ source: Tensor, _ indices: Tensor, into destination: Tensor) {
    let d = source.rowCount
    precondition(destination.shape[0] == indices.count && destination.rowCount == d, "gatherRows: shapes differ")
    enqueue([destination]) {
      for m in 0..<indices.count {
        let index = Int(indices.integers[m])
        precondition((0..<source.shape[0]).contains(index), "gatherRows: index \(index) outside the source")
        for i in 0..<d { destination.floats[m * d + i] = source.floats[index * d + i] }
      }
    }
  }

  public func scatterRows(_ source: Tensor, _ indices: Tensor, into destination: Tensor) {
    let d = destination.rowCount
    precondition(source.shape[0] == indices.count && source.rowCount == d, "scatterRows: shapes differ")
    enqueue([destination]) {
      for m in 0..<indices.count {
        let index = Int(indices.integers[m])
        precondition((0..<destination.shape[0]).contains(index), "scatterRows: index \(index) outside the destination")
        for i in 0..<d { destination.floats[index * d + i] = source.floats[m * d + i] }
      }
    }
  }

  // MARK: Diffusion

  public func addNoise(_ clean: Tensor, _ noise: Tensor, signal: Tensor, sigma: Tensor, into noisy: Tensor) {
    let images = signal.count
    precondition(clean.count == noise.count && clean.count == noisy.count && sigma.count == images)
    guard images > 0 else { return }
    let elements = clean.count / images  // P*K
    enqueue([noisy]) {
      for i in 0..<clean.count {
        let image = i / elements
        noisy.floats[i] = signal.floats[image] * clean.floats[i] + sigma.floats[image] * noise.floats[i]
      }
    }
  }

  public func addTime(_ time: Tensor, to patches: Tensor) {
    let (images, d) = (time.shape[0], time.rowCount)
    precondition(patches.rowCount == d)
    guard images > 0 else { return }
    let perImage = patches.shape[0] / images  // P
    enqueue([patches]) {
      for row in 0..<patches.shape[0] {
        for i in 0..<d { patches.floats[row * d + i] += time.floats[row / perImage * d + i] }
      }
    }
  }

  public func addTimeBackward(_ dPatches: Tensor, into dTime: Tensor) {
    let (images, d) = (dTime.shape[0], dTime.rowCount)
    precondition(dPatches.rowCount == d)
    guard images > 0 else { return }
    let perImage = dPatches.shape[0] / images  // P
    enqueue([dTime]) {
      for i in 0..<dTime.count { dTime.floats[i] = 0 }
      for row in 0..<dPatches.shape[0] {
        for i in 0..<d { dTime.floats[row / perImage * d + i] += dPatches.floats[row * d + i] }
      }
    }
  }
}
