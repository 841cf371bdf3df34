import Compute
import Testing

@Suite struct CPUDeviceMatmulTests {
  struct Shape: CustomTestStringConvertible {
    var m, n, k: Int
    var testDescription: String { "\(m)x\(n)x\(k)" }
  }
  static let shapes = [
    Shape(m: 1, n: 1, k: 1), Shape(m: 3, n: 5, k: 7), Shape(m: 33, n: 65, k: 129), Shape(m: 200, n: 1, k: 64),
    Shape(m: 300, n: 520, k: 48), Shape(m: 1, n: 800, k: 33), Shape(m: 530, n: 300, k: 17),
    // Whole blocks, blocks that end after one or two vectors, and a sum longer than is packed at a time.
    Shape(m: 96, n: 64, k: 64), Shape(m: 64, n: 160, k: 96), Shape(m: 64, n: 80, k: 96),
    Shape(m: 20, n: 40, k: 4_200),
    // Whole strips whose last pair of inner elements is half empty.
    Shape(m: 64, n: 96, k: 49),
  ]

  @Test(arguments: shapes) func float32(_ shape: Shape) throws { try check(shape, .float32, .float32, 1e-5) }
  @Test(arguments: shapes) func bfloat16(_ shape: Shape) throws { try check(shape, .bfloat16, .float32, 1e-5) }
  @Test(arguments: shapes) func bfloat16Result(_ shape: Shape) throws { try check(shape, .bfloat16, .bfloat16, 4e-3) }

  private func check(_ s: Shape, _ type: ElementType, _ result: ElementType, _ tolerance: Float) throws {
    try DeviceComparison.check(tolerance) { device in
      var results: [[Float]] = []
      for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
        let a = try device.tensor(type, ta ? [s.k, s.m] : [s.m, s.k], gaussians(1, s.m * s.k))
        let b = try device.tensor(type, tb ? [s.n, s.k] : [s.k, s.n], gaussians(2, s.k * s.n))
        let c = try device.tensor(result, [s.m, s.n], gaussians(3, s.m * s.n))
        let base = try device.tensor(.float32, [s.m, s.n], gaussians(4, s.m * s.n))
        device.matmul(
          a, transposed: ta, b, transposed: tb, adding: result == .float32 && ta ? (tb ? base : c) : nil, into: c)
        results.append(try device.values(c))
      }
      return results
    }
  }

  @Test func emptyDimensionsAreFine() throws {
    let device = try CPUDevice(threads: 2)
    for type in [ElementType.float32, .bfloat16] {
      let none = try device.allocate(type, [0, 8])
      let b = try device.allocate(type, [8, 4])
      let c = try device.allocate(.float32, [0, 4])
      device.matmul(none, transposed: false, b, transposed: false, adding: nil, into: c)
      // A sum over nothing is zero, and adds nothing.
      let sums = try device.tensor(.float32, [8, 8], gaussians(1, 64))
      device.matmul(none, transposed: true, none, transposed: false, adding: sums, into: sums)
      #expect(try device.values(sums) == gaussians(1, 64))
      device.matmul(none, transposed: true, none, transposed: false, adding: nil, into: sums)
      #expect(try device.values(sums).allSatisfy { $0 == 0 })
    }
    try device.wait()
  }

  /// Processors that share a fingerprint must add in one order. Of two products in a lane the second is added first, and
  /// each sum is rounded.
  @Test func pairsAreAddedInTheOrderThatTheFingerprintStandsFor() throws {
    let device = try CPUDevice(threads: 1)
    guard device.fingerprint.contains("+pairs") else { return }
    let large: Float = 16_777_216  // 2^24, beside which 1 is lost.
    func sum(_ products: [Float]) throws -> Float {
      let a = try device.tensor(.bfloat16, [1, 2], products)
      let ones = try device.tensor(.bfloat16, [2, 1], [1, 1])
      let sum = try device.tensor(.float32, [1, 1], [large])
      device.matmul(a, transposed: false, ones, transposed: false, adding: sum, into: sum)
      return try device.values(sum)[0]
    }
    #expect(try sum([1, -large]) == 1)
    #expect(try sum([-large, 1]) == 0)
  }

  /// Our own products that add one at a time: each sum in the order of the inner dimension, each addition rounded once,
  /// whatever the strips, the packing and the cut. A stored run resumes on these bits.
  @Test(arguments: shapes) func sumsAreMadeInTheOrderOfTheInnerDimension(_ s: Shape) throws {
    for set in DeviceComparison.instructionSets where set != .portable {
      let device = try CPUDevice(threads: 2, instructionSet: set)
      for type in [ElementType.float32, .bfloat16] where type == .float32 || set == .avx2 {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
          let a = try device.tensor(type, ta ? [s.k, s.m] : [s.m, s.k], gaussians(1, s.m * s.k))
          let b = try device.tensor(type, tb ? [s.n, s.k] : [s.k, s.n], gaussians(2, s.k * s.n))
          let c = try device.tensor(.float32, [s.m, s.n], gaussians(3, s.m * s.n))
          let (left, right, base) = (try device.values(a), try device.values(b), try device.values(c))
          device.matmul(a, transposed: ta, b, transposed: tb, adding: c, into: c)
          let product = try device.values(c)
          // All of a small product, the edges and some of the middle of a large one.
          func some(_ count: Int) -> [Int] { Array(stride(from: 0, to: count, by: count / 40 + 1)) + [count - 1] }
          for row in some(s.m) {
            for column in some(s.n) {
              var sum = base[row * s.n + column]
              for inner in 0..<s.k {
                sum = sum.addingProduct(
                  left[ta ? inner * s.m + row : row * s.k + inner],
                  right[tb ? column * s.k + inner : inner * s.n + column])
              }
              if product[row * s.n + column].bitPattern != sum.bitPattern {
                let place = "\(set) \(type) \(ta) \(tb): [\(row), \(column)]"
                Issue.record("\(place) is \(product[row * s.n + column]), not \(sum)")
                return
              }
            }
          }
        }
      }
    }
  }

  /// bfloat16 results of our own products, in whole vectors and edges: to nearest, ties to even, NaN and infinity stay what they are.
  @Test(arguments: [8, 16, 24, 48, 53]) func bfloat16ResultsAreRoundedAlikeInVectorsAndEdges(_ columns: Int) throws {
    let tie = Float(bitPattern: 0x3F80_8000)  // Between 1 and the next bfloat16: to the even one, 1.
    let values: [Float] = [tie, Float(bitPattern: 0x3F81_8000), 1, -.infinity, .nan, 3.4e38, .leastNonzeroMagnitude, -0.0]
    let rounded: [Float] = [1, Float(bitPattern: 0x3F82_0000), 1, -.infinity, .nan, .infinity, 0, -0.0]
    for set in DeviceComparison.instructionSets where set != .portable {
      let device = try CPUDevice(threads: 1, instructionSet: set)
      for rows in [4, 8, 11] {
        // One product for each element.
        let a = try device.tensor(.float32, [rows, 1], [Float](repeating: 1, count: rows))
        let b = try device.tensor(.float32, [1, columns], (0..<columns).map { values[$0 % values.count] })
        let c = try device.allocate(.bfloat16, [rows, columns])
        device.matmul(a, transposed: false, b, transposed: false, adding: nil, into: c)
        for (index, value) in try device.values(c).enumerated() {
          let wanted = rounded[index % columns % rounded.count]
          // Whether the smallest numbers are kept or taken for zero is the processor's affair.
          let same = wanted.isNaN ? value.isNaN : value == wanted || (wanted == 0 && abs(value) < 1e-38)
          #expect(same, "\(set): element \(index) of \(rows) x \(columns) is \(value), not \(wanted)")
        }
      }
    }
  }

  @Test func measuredSpeedIsPositive() throws {
    #expect(try CPUDevice.measureGigaflops(threads: 1) > 1)
  }
}
