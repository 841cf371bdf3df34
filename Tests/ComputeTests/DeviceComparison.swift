import Compute
import KernelInterface
import Randomness
import Testing

/// Runs one computation on the reference device and on the CPU device in its variants.
enum DeviceComparison {
  /// Sets that run here; the best last.
  static let instructionSets: [InstructionSet] = InstructionSet.allCases.filter { set in
    (try? CPUDevice(threads: 1, instructionSet: set)) != nil
  }

  /// Checks the largest error relative to the largest magnitude of each result against float64, for every
  /// instruction set, and that 1, 2 and 3 threads give the same bits.
  static func check(
    _ tolerance: Float, sourceLocation: SourceLocation = #_sourceLocation,
    _ computation: (any Device) throws -> [[Float]]
  ) throws {
    let expected = try computation(ReferenceDevice())
    for set in instructionSets {
      let single = try computation(CPUDevice(threads: 1, instructionSet: set))
      #expect(single.count == expected.count, sourceLocation: sourceLocation)
      for (index, (got, wanted)) in zip(single, expected).enumerated() {
        let error = relativeError(got, wanted)
        #expect(error <= tolerance, "result \(index), \(set)", sourceLocation: sourceLocation)
      }
      for threads in [2, 3] {
        let several = try computation(CPUDevice(threads: threads, instructionSet: set))
        let same = zip(several, single).allSatisfy { $0.map(\.bitPattern) == $1.map(\.bitPattern) }
        #expect(same, "\(threads) threads, \(set)", sourceLocation: sourceLocation)
      }
    }
  }

  static func relativeError(_ got: [Float], _ wanted: [Float]) -> Float {
    if got.count != wanted.count { return .infinity }
    let largest = wanted.map(abs).max() ?? 0
    var worst: Float = 0
    for (a, b) in zip(got, wanted) {
      if a.isNaN != b.isNaN { return .infinity }
      worst = max(worst, abs(a - b))
    }
    return worst == 0 ? 0 : worst / max(largest, .leastNormalMagnitude)
  }
}

/// Numbers of a test by name: the same on every device.
func gaussians(_ stream: UInt64, _ count: Int, scale: Float = 1) -> [Float] {
  var values = [Float](repeating: 0, count: count)
  CounterStream(seed: 7, purpose: .parameters, stream: stream).fillGaussian(&values)
  return values.map { $0 * scale }
}

func bfloat16Bits(_ value: Float) -> UInt16 {
  let bits = value.bitPattern
  return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ ((bits >> 16) & 1)) >> 16)
}

extension Device {
  func tensor(_ type: ElementType = .float32, _ shape: Extents, _ values: [Float]) throws -> Tensor {
    let tensor = try allocate(type, shape)
    if type == .bfloat16 { upload(values.map(bfloat16Bits), to: tensor) } else { upload(values, to: tensor) }
    return tensor
  }
  func tensor(_ values: [Int32]) throws -> Tensor {
    let tensor = try allocate(.int32, [values.count])
    upload(values, to: tensor)
    return tensor
  }
  /// The tensor's elements, widened where they are bfloat16.
  func values(_ tensor: Tensor) throws -> [Float] {
    if tensor.type == .float32 { return try floats(tensor) }
    var bits = [UInt16](repeating: 0, count: tensor.count)
    try bits.withUnsafeMutableBytes { try download(tensor, into: $0) }
    return bits.map { Float(bitPattern: UInt32($0) << 16) }
  }
}
