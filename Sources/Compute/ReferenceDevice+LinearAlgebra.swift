// Shape letters as in Device.swift.

extension ReferenceDevice {
  public func matmul(
    _ a: Tensor, transposed transposeA: Bool, _ b: Tensor, transposed transposeB: Bool, adding base: Tensor?,
    into c: Tensor
  ) {
    let (rows, columns) = (c.shape[0], c.rowCount)
    let inner = transposeA ? a.shape[0] : a.rowCount
    precondition((transposeA ? a.rowCount : a.shape[0]) == rows, "matmul: rows of a and c differ")
    precondition((transposeB ? b.shape[0] : b.rowCount) == columns, "matmul: columns of b and c differ")
    precondition((transposeB ? b.rowCount : b.shape[0]) == inner, "matmul: inner dimensions differ")
    precondition(a.type == b.type, "matmul: operands of two types")
    precondition(base == nil || c.type == .float32, "matmul: adds in float32 only")
    precondition(base.map { $0.count == c.count && $0.type == .float32 } ?? true, "matmul: base and c differ")
    enqueue([c]) {
      let (a, b, c) = (a.floats, b.floats, c.floats)
      for i in 0..<rows {
        for j in 0..<columns {
          // op(a)[i, k] is a[k, i] where a is transposed, and likewise for b.
          let sum = dot(
            transposeA ? a + i : a + i * inner, stride: transposeA ? rows : 1,
            transposeB ? b + j * inner : b + j, stride: transposeB ? 1 : columns, count: inner)
          c[i * columns + j] = (base?.floats[i * columns + j] ?? 0) + sum
        }
      }
    }
  }

  public func addBias(_ bias: Tensor, to rows: Tensor) {
    let n = bias.count
    precondition(rows.rowCount == n && bias.type == .float32, "addBias: widths differ")
    enqueue([rows]) {
      for i in 0..<rows.count { rows.floats[i] += bias.floats[i % n] }
    }
  }

  public func addBiasGradient(_ rows: Tensor, to gradient: Tensor) {
    let n = gradient.count
    precondition(rows.rowCount == n && gradient.type == .float32, "addBiasGradient: widths differ")
    enqueue([gradient]) {
      for i in 0..<rows.count { gradient.floats[i % n] += rows.floats[i] }
    }
  }
}

/// The sum of products of two strided vectors, in index order.
func dot(
  _ a: UnsafeMutablePointer<Double>, stride strideA: Int = 1, _ b: UnsafeMutablePointer<Double>,
  stride strideB: Int = 1, count: Int
) -> Double {
  var sum = 0.0
  var k = 0
  while k < count {
    sum += a[k * strideA] * b[k * strideB]
    k += 1
  }
  return sum
}
