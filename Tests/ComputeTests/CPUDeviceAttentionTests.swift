import Compute
import KernelInterface
import Testing

@Suite struct CPUDeviceAttentionTests {
  struct Case: CustomTestStringConvertible {
    var tokens, heads, groups, headSize: Int
    /// Lengths of documents, over and over; 0 < image patches in the middle of each.
    var documents: [Int]
    var testDescription: String { "T\(tokens) H\(heads) G\(groups) E\(headSize) \(documents)" }

    /// Causal inside a document, and both ways inside its middle third (an image).
    var intervals: (start: [Int32], end: [Int32]) {
      var (starts, ends): ([Int32], [Int32]) = ([], [])
      var (start, index) = (0, 0)
      while start < tokens {
        let end = min(start + documents[index % documents.count], tokens)
        let image = start + (end - start) / 3..<start + (end - start) * 2 / 3
        for query in start..<end {
          starts.append(Int32(start))
          ends.append(Int32(image.contains(query) ? image.upperBound : query + 1))
        }
        (start, index) = (end, index + 1)
      }
      return (starts, ends)
    }
  }

  static let cases = [
    Case(tokens: 1, heads: 1, groups: 1, headSize: 2, documents: [1]),
    Case(tokens: 7, heads: 2, groups: 1, headSize: 6, documents: [3, 4]),
    Case(tokens: 100, heads: 4, groups: 2, headSize: 16, documents: [9, 30, 1]),
    Case(tokens: 300, heads: 3, groups: 3, headSize: 64, documents: [300]),
    Case(tokens: 700, heads: 2, groups: 1, headSize: 32, documents: [256, 256, 188]),
    Case(tokens: 1_024, heads: 2, groups: 2, headSize: 24, documents: [512]),
    Case(tokens: 600, heads: 1, groups: 1, headSize: 128, documents: [10, 500, 1, 89]),
  ]

  @Test(arguments: cases) func float32(_ c: Case) throws { try check(c, .float32, 5e-6) }
  @Test(arguments: cases) func bfloat16(_ c: Case) throws { try check(c, .bfloat16, 1.2e-2) }

  private func check(_ c: Case, _ type: ElementType, _ tolerance: Float) throws {
    let width = (c.heads + 2 * c.groups) * c.headSize
    let (starts, ends) = c.intervals
    try DeviceComparison.check(tolerance) { device in
      let qkv = try device.tensor(type, [c.tokens, width], gaussians(1, c.tokens * width))
      let keyStart = try device.tensor(starts)
      let keyEnd = try device.tensor(ends)
      let output = try device.allocate(type, [c.tokens, c.heads * c.headSize])
      let logSumExp = try device.allocate(.float32, [c.heads, c.tokens])
      device.attention(
        qkv, heads: c.heads, keyValueHeads: c.groups, keyStart: keyStart, keyEnd: keyEnd, into: output,
        logSumExp: logSumExp)
      let dOutput = try device.tensor(
        type, [c.tokens, c.heads * c.headSize], gaussians(2, c.tokens * c.heads * c.headSize))
      let dqkv = try device.tensor(type, [c.tokens, width], gaussians(3, c.tokens * width))
      device.attentionBackward(
        dOutput, qkv: qkv, output: output, logSumExp: logSumExp, heads: c.heads, keyValueHeads: c.groups,
        keyStart: keyStart, keyEnd: keyEnd, into: dqkv)
      return [try device.values(output), try device.values(logSumExp), try device.values(dqkv)]
    }
  }

  /// Products leave out what no query sees, so scratch memory keeps what was there before; products of tiles read it
  /// where the kernels between have not written zeros over it.
  @Test(arguments: [ElementType.float32, .bfloat16])
  func whatAnEarlierCallLeftInScratchMemoryIsNotRead(_ type: ElementType) throws {
    let c = Case(tokens: 520, heads: 2, groups: 1, headSize: 32, documents: [300, 150, 70])
    let (starts, ends) = c.intervals
    let width = (c.heads + 2 * c.groups) * c.headSize
    func results(_ set: InstructionSet, poisoned: Bool) throws -> [[Float]] {
      let device = try CPUDevice(threads: 2, instructionSet: set)
      let (keyStart, keyEnd) = (try device.tensor(starts), try device.tensor(ends))
      let (first, last) = ([Int32](repeating: 0, count: c.tokens), [Int32](repeating: Int32(c.tokens), count: c.tokens))
      // Every query sees every key, and all is NaN.
      let (all, allEnd) = (try device.tensor(first), try device.tensor(last))
      let nothing = try device.tensor(type, [c.tokens, width], [Float](repeating: .nan, count: c.tokens * width))
      let qkv = try device.tensor(type, [c.tokens, width], gaussians(1, c.tokens * width))
      let output = try device.allocate(type, [c.tokens, c.heads * c.headSize])
      let logSumExp = try device.allocate(.float32, [c.heads, c.tokens])
      let dqkv = try device.allocate(type, [c.tokens, width])
      func forward(_ qkv: Tensor, _ start: Tensor, _ end: Tensor) throws -> [Float] {
        device.attention(
          qkv, heads: c.heads, keyValueHeads: c.groups, keyStart: start, keyEnd: end, into: output,
          logSumExp: logSumExp)
        return try device.values(output)
      }
      func backward(_ qkv: Tensor, _ start: Tensor, _ end: Tensor) throws -> [Float] {
        device.attentionBackward(
          output, qkv: qkv, output: output, logSumExp: logSumExp, heads: c.heads, keyValueHeads: c.groups,
          keyStart: start, keyEnd: end, into: dqkv)
        return try device.values(dqkv)
      }
      if poisoned { #expect(try forward(nothing, all, allEnd).allSatisfy(\.isNaN)) }
      let values = try forward(qkv, keyStart, keyEnd)
      // Gradients, right after gradients: the forward pass would write numbers over what those leave.
      if poisoned { #expect(try backward(nothing, all, allEnd).contains(where: \.isNaN)) }
      return [values, try backward(qkv, keyStart, keyEnd)]
    }
    for set in DeviceComparison.instructionSets {
      #expect(try results(set, poisoned: true) == results(set, poisoned: false), "\(set)")
    }
  }

  @Test func paddingSeesItselfAlone() throws {
    let tokens = 40
    let device = try CPUDevice(threads: 2)
    let values = gaussians(1, tokens * 12)
    let qkv = try device.tensor([tokens, 12], values)
    let keyStart = try device.tensor((0..<tokens).map { Int32($0) })
    let keyEnd = try device.tensor((0..<tokens).map { Int32($0 + 1) })
    let output = try device.allocate(.float32, [tokens, 4])
    let logSumExp = try device.allocate(.float32, [1, tokens])
    device.attention(
      qkv, heads: 1, keyValueHeads: 1, keyStart: keyStart, keyEnd: keyEnd, into: output, logSumExp: logSumExp)
    let expected = (0..<tokens).flatMap { row in (8..<12).map { values[row * 12 + $0] } }
    #expect(DeviceComparison.relativeError(try device.values(output), expected) < 1e-6)
  }

  @Test func scoresOfAnySizeStayNumbers() throws {
    let tokens = 64
    let (starts, ends) = Case(tokens: tokens, heads: 1, groups: 1, headSize: 16, documents: [64]).intervals
    try DeviceComparison.check(1e-4) { device in
      let qkv = try device.tensor([tokens, 48], gaussians(1, tokens * 48, scale: 100))
      let output = try device.allocate(.float32, [tokens, 16])
      let logSumExp = try device.allocate(.float32, [1, tokens])
      device.attention(
        qkv, heads: 1, keyValueHeads: 1, keyStart: try device.tensor(starts), keyEnd: try device.tensor(ends),
        into: output, logSumExp: logSumExp)
      return [try device.values(output), try device.values(logSumExp)]
    }
  }
}
