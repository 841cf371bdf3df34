import Foundation

// Shape letters as in Device.swift.

extension ReferenceDevice {
  public func headLoss(_ hidden: Tensor, weight: Tensor, targets: Tensor, losses: Tensor, gradient: HeadGradient?) {
    let (rows, d, v) = (hidden.shape[0], hidden.rowCount, weight.shape[0])
    precondition(weight.rowCount == d && targets.count == rows && losses.count == rows, "headLoss: shapes differ")
    precondition(hidden.type == weight.type, "headLoss: operands of two types")
    if let gradient {
      precondition(gradient.dHidden.count == hidden.count && gradient.weightGradient.count == weight.count)
    }
    enqueue([losses] + (gradient.map { [$0.dHidden, $0.weightGradient] } ?? [])) {
      let (h, w) = (hidden.floats, weight.floats)
      if let gradient, !gradient.adds {
        for i in 0..<gradient.weightGradient.count { gradient.weightGradient.floats[i] = 0 }
      }
      var logits = [Double](repeating: 0, count: v)
      for m in 0..<rows {
        let target = Int(targets.integers[m])
        precondition((0..<v).contains(target), "headLoss: target \(target) outside the vocabulary")
        var largest = -Double.infinity
        for j in 0..<v {
          logits[j] = dot(h + m * d, w + j * d, count: d)
          largest = max(largest, logits[j])
        }
        var sum = 0.0
        for j in 0..<v { sum += exp(logits[j] - largest) }
        losses.floats[m] = log(sum) + largest - logits[target]

        guard let gradient else { continue }
        let (dh, dw) = (gradient.dHidden.floats + m * d, gradient.weightGradient.floats)
        for i in 0..<d { dh[i] = 0 }
        for j in 0..<v {
          let probability = exp(logits[j] - largest) / sum
          let dLogit = Double(gradient.scale) * (probability - (j == target ? 1 : 0))
          for i in 0..<d {
            dh[i] += dLogit * w[j * d + i]
            dw[j * d + i] += dLogit * h[m * d + i]
          }
        }
      }
    }
  }

  public func squaredError(_ prediction: Tensor, target: Tensor, losses: Tensor, gradient: Tensor?, scale: Float) {
    let images = losses.count
    precondition(prediction.count == target.count && (gradient.map { $0.count == prediction.count } ?? true))
    guard images > 0 else { return }
    let elements = prediction.count / images  // P*K
    enqueue([losses] + (gradient.map { [$0] } ?? [])) {
      for image in 0..<images {
        var sum = 0.0
        for i in image * elements..<(image + 1) * elements {
          let difference = prediction.floats[i] - target.floats[i]
          sum += difference * difference
          if let gradient { gradient.floats[i] = Double(scale) * 2 * difference / Double(elements) }
        }
        losses.floats[image] = sum / Double(elements)
      }
    }
  }

  // MARK: Optimizer

  public func sumOfSquares(_ tensor: Tensor, into result: Tensor, at index: Int) {
    precondition(tensor.type == .float32 && result.type == .float64 && (0..<result.count).contains(index))
    enqueue([]) {
      var total = 0.0
      for start in stride(from: 0, to: tensor.count, by: 4_096) {
        let block = tensor.floats + start
        total += dot(block, block, count: min(4_096, tensor.count - start))
      }
      result.floats[index] = total
    }
  }

  public func adamW(
    _ parameter: Tensor, gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, computeCopy: Tensor?,
    _ step: AdamWStep
  ) {
    let count = parameter.count
    precondition(gradient.count == count && firstMoment.count == count && secondMoment.count == count)
    precondition(computeCopy.map { $0.count == count } ?? true)
    enqueue([parameter, firstMoment, secondMoment] + (computeCopy.map { [$0] } ?? [])) {
      let (p, m, v) = (parameter.floats, firstMoment.floats, secondMoment.floats)
      let (beta1, beta2) = (Double(step.beta1), Double(step.beta2))
      for i in 0..<count {
        let g = Double(step.gradientScale) * gradient.floats[i]
        p[i] *= 1 - Double(step.learningRate) * Double(step.weightDecay)
        m[i] = beta1 * m[i] + (1 - beta1) * g
        v[i] = beta2 * v[i] + (1 - beta2) * g * g
        let denominator = v[i].squareRoot() / Double(step.correction2).squareRoot() + Double(step.epsilon)
        p[i] -= Double(step.learningRate) / Double(step.correction1) * m[i] / denominator
        computeCopy?.floats[i] = p[i]
      }
    }
  }
}
