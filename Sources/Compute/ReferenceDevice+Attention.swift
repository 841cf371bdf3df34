import Foundation

// Shape letters as in Device.swift. A row of qkv is [H query heads | G key heads | G value heads], each of E
// elements; query head h reads key-value head h / (H / G), as in Hugging Face.

/// Where things lie in packed rows.
private struct HeadLayout {
  let heads, group, headSize, width: Int
  let keyColumn, valueColumn: Int

  init(qkv: Tensor, heads: Int, keyValueHeads: Int) {
    precondition(keyValueHeads > 0 && heads % keyValueHeads == 0, "key-value heads do not divide the heads")
    width = qkv.rowCount
    headSize = width / (heads + 2 * keyValueHeads)
    precondition(headSize * (heads + 2 * keyValueHeads) == width, "heads do not divide the row")
    self.heads = heads
    group = heads / keyValueHeads
    keyColumn = heads * headSize
    valueColumn = (heads + keyValueHeads) * headSize
  }
  func query(_ t: Int, _ head: Int) -> Int { t * width + head * headSize }
  func key(_ t: Int, _ head: Int) -> Int { t * width + keyColumn + head / group * headSize }
  func value(_ t: Int, _ head: Int) -> Int { t * width + valueColumn + head / group * headSize }
  /// Of the head's part of an output row.
  func output(_ t: Int, _ head: Int) -> Int { (t * heads + head) * headSize }
  var scale: Double { 1 / Double(headSize).squareRoot() }
}

extension ReferenceDevice {
  public func attention(
    _ qkv: Tensor, heads: Int, keyValueHeads: Int, keyStart: Tensor, keyEnd: Tensor, into output: Tensor,
    logSumExp: Tensor
  ) {
    let rows = qkv.shape[0]
    let layout = HeadLayout(qkv: qkv, heads: heads, keyValueHeads: keyValueHeads)
    precondition(output.count == rows * heads * layout.headSize && logSumExp.count == heads * rows)
    precondition(keyStart.count == rows && keyEnd.count == rows)
    enqueue([output, logSumExp]) {
      let (x, out, e) = (qkv.floats, output.floats, layout.headSize)
      for head in 0..<heads {
        for t in 0..<rows {
          let keys = Int(keyStart.integers[t])..<Int(keyEnd.integers[t])
          precondition(
            !keys.isEmpty && keys.lowerBound >= 0 && keys.upperBound <= rows, "attention: keys of query \(t)")
          let scores = keys.map { key in
            dot(x + layout.query(t, head), x + layout.key(key, head), count: e) * layout.scale
          }
          var largest = -Double.infinity
          for score in scores { largest = max(largest, score) }
          var sum = 0.0
          for score in scores { sum += exp(score - largest) }
          logSumExp.floats[head * rows + t] = largest + log(sum)
          let row = out + layout.output(t, head)
          for i in 0..<e { row[i] = 0 }
          for (key, score) in zip(keys, scores) {
            let weight = exp(score - largest) / sum
            for i in 0..<e { row[i] += weight * x[layout.value(key, head) + i] }
          }
        }
      }
    }
  }

  public func attentionBackward(
    _ dOutput: Tensor, qkv: Tensor, output: Tensor, logSumExp: Tensor, heads: Int, keyValueHeads: Int, keyStart: Tensor,
    keyEnd: Tensor, into dqkv: Tensor
  ) {
    let rows = qkv.shape[0]
    let layout = HeadLayout(qkv: qkv, heads: heads, keyValueHeads: keyValueHeads)
    precondition(dqkv.count == qkv.count && dOutput.count == output.count && logSumExp.count == heads * rows)
    precondition(keyStart.count == rows && keyEnd.count == rows)
    enqueue([dqkv]) {
      let (x, dx, e) = (qkv.floats, dqkv.floats, layout.headSize)
      for i in 0..<qkv.count { dx[i] = 0 }
      for head in 0..<heads {
        for t in 0..<rows {
          let query = layout.query(t, head)
          let dOut = dOutput.floats + layout.output(t, head)
          // The softmax's own gradient subtracts sum_k p_k dp_k, which is dO . O.
          let mean = dot(dOut, output.floats + layout.output(t, head), count: e)
          for k in Int(keyStart.integers[t])..<Int(keyEnd.integers[t]) {
            let (key, value) = (layout.key(k, head), layout.value(k, head))
            let score = dot(x + query, x + key, count: e) * layout.scale
            let weight = exp(score - logSumExp.floats[head * rows + t])
            let dScore = weight * (dot(dOut, x + value, count: e) - mean) * layout.scale
            for i in 0..<e {
              dx[value + i] += weight * dOut[i]
              dx[query + i] += dScore * x[key + i]
              dx[key + i] += dScore * x[query + i]
            }
          }
        }
      }
    }
  }
}
