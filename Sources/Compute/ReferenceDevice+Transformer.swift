import Foundation

// Shape letters as in Device.swift.

extension ReferenceDevice {
  public func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Float, into y: Tensor, inverse: Tensor) {
    let (rows, d) = (x.shape[0], x.rowCount)
    precondition(y.count == x.count && weight.count == d && inverse.count == rows, "rmsNorm: shapes differ")
    enqueue([y, inverse]) {
      let (x, w, y) = (x.floats, weight.floats, y.floats)
      for t in 0..<rows {
        let row = x + t * d
        let r = 1 / (dot(row, row, count: d) / Double(d) + Double(epsilon)).squareRoot()
        inverse.floats[t] = r
        for i in 0..<d { y[t * d + i] = row[i] * r * w[i] }
      }
    }
  }

  public func rmsNormBackward(
    _ dy: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, addingTo dx: Tensor, weightGradient: Tensor
  ) {
    let (rows, d) = (x.shape[0], x.rowCount)
    precondition(dy.count == x.count && dx.count == x.count && weight.count == d && weightGradient.count == d)
    precondition(inverse.count == rows, "rmsNormBackward: shapes differ")
    enqueue([dx, weightGradient]) {
      let (dy, x, w, dx, dw) = (dy.floats, x.floats, weight.floats, dx.floats, weightGradient.floats)
      for t in 0..<rows {
        let r = inverse.floats[t]
        // y_i = x_i r w_i with r = (mean x^2 + epsilon)^(-1/2):
        // dx_i = r w_i dy_i - x_i r^3 / D * sum_j dy_j w_j x_j
        var projection = 0.0
        for i in 0..<d { projection += dy[t * d + i] * w[i] * x[t * d + i] }
        let factor = projection * r * r * r / Double(d)
        for i in 0..<d {
          dw[i] += dy[t * d + i] * x[t * d + i] * r
          dx[t * d + i] += r * w[i] * dy[t * d + i] - x[t * d + i] * factor
        }
      }
    }
  }

  public func rotate(
    _ qkv: Tensor, heads: Int, keyValueHeads: Int, cosine: Tensor, sine: Tensor, inverse: Bool
  ) {
    let (rows, width) = (qkv.shape[0], qkv.rowCount)
    let e = width / (heads + 2 * keyValueHeads)
    let half = e / 2
    precondition(e * (heads + 2 * keyValueHeads) == width && half * 2 == e, "rotate: head size")
    precondition(cosine.count == rows * half && sine.count == rows * half, "rotate: tables of another shape")
    enqueue([qkv]) {
      let qkv = qkv.floats
      for t in 0..<rows {
        for head in 0..<(heads + keyValueHeads) {
          let vector = qkv + t * width + head * e
          for i in 0..<half {
            let c = cosine.floats[t * half + i]
            let s = inverse ? -sine.floats[t * half + i] : sine.floats[t * half + i]
            let (a, b) = (vector[i], vector[half + i])
            vector[i] = a * c - b * s
            vector[half + i] = b * c + a * s
          }
        }
      }
    }
  }

  public func swiGLU(_ gateUp: Tensor, into output: Tensor) {
    let (rows, f) = (output.shape[0], output.rowCount)
    precondition(gateUp.shape[0] == rows && gateUp.rowCount == 2 * f, "swiGLU: shapes differ")
    enqueue([output]) {
      for t in 0..<rows {
        for i in 0..<f {
          let gate = gateUp.floats[t * 2 * f + i]
          let up = gateUp.floats[t * 2 * f + f + i]
          output.floats[t * f + i] = gate * logistic(gate) * up
        }
      }
    }
  }

  public func swiGLUBackward(_ dOutput: Tensor, gateUp: Tensor, into dGateUp: Tensor, output: Tensor) {
    let (rows, f) = (dOutput.shape[0], dOutput.rowCount)
    precondition(gateUp.rowCount == 2 * f && gateUp.shape[0] == rows && dGateUp.count == gateUp.count)
    precondition(output.count == dOutput.count, "swiGLUBackward: outputs differ")
    enqueue([dGateUp, output]) {
      for t in 0..<rows {
        for i in 0..<f {
          let gate = gateUp.floats[t * 2 * f + i]
          let up = gateUp.floats[t * 2 * f + f + i]
          let d = dOutput.floats[t * f + i]
          output.floats[t * f + i] = gate * logistic(gate) * up
          dGateUp.floats[t * 2 * f + i] = d * up * siluDerivative(gate)
          dGateUp.floats[t * 2 * f + f + i] = d * gate * logistic(gate)
        }
      }
    }
  }

  public func silu(_ x: Tensor, into y: Tensor) {
    precondition(x.count == y.count)
    enqueue([y]) { for i in 0..<x.count { y.floats[i] = x.floats[i] * logistic(x.floats[i]) } }
  }

  public func siluBackward(_ dy: Tensor, x: Tensor, into dx: Tensor) {
    precondition(x.count == dy.count && x.count == dx.count)
    enqueue([dx]) { for i in 0..<x.count { dx.floats[i] = dy.floats[i] * siluDerivative(x.floats[i]) } }
  }
}

private func logistic(_ x: Double) -> Double { 1 / (1 + exp(-x)) }
private func siluDerivative(_ x: Double) -> Double { logistic(x) * (1 + x * (1 - logistic(x))) }
