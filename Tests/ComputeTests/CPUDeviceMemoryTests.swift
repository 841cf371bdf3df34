import Compute
import KernelInterface
import Testing

@Suite struct CPUDeviceMemoryTests {
  @Test func limitIsKeptAndFreedMemoryReturns() throws {
    let device = try CPUDevice(threads: 1, memoryLimitBytes: 1 << 20)
    do {
      let first = try device.allocate(.float32, [1 << 17])
      #expect(device.allocatedBytes == 1 << 19)
      #expect(throws: DeviceError.outOfMemory(requestedBytes: 1 << 19, limitBytes: 1 << 20)) {
        try device.allocate(.float32, [1 << 18])
      }
      #expect(try device.values(first).allSatisfy { $0 == 0 })
    }
    #expect(device.allocatedBytes == 0)
    _ = try device.allocate(.float32, [1 << 18])
  }

  @Test func impossibleShapesAreErrors() throws {
    let device = try CPUDevice(threads: 1)
    #expect(throws: DeviceError.self) { try device.allocate(.float32, [Int.max, 2]) }
    #expect(throws: DeviceError.self) { try device.allocate(.float32, [Int.max / 2]) }
    #expect(throws: DeviceError.self) { try device.allocate(.float32, [1 << 50]) }
  }

  @Test func fingerprintNamesKernelsAndLibrary() throws {
    for set in DeviceComparison.instructionSets {
      let device = try CPUDevice(threads: 1, instructionSet: set)
      #expect(device.fingerprint.hasPrefix("cpu/") && device.fingerprint.contains("/\(set.rawValue)+"))
      #expect(device.fingerprint.contains("/onednn-"))
    }
    #expect(try CPUDevice(threads: 3).threads == 3)
  }

  @Test func steadyStateAllocatesNoScratch() throws {
    let device = try CPUDevice(threads: 2)
    let (tokens, width) = (256, 64)
    let qkv = try device.tensor(.bfloat16, [tokens, 3 * width], gaussians(1, tokens * 3 * width))
    let output = try device.allocate(.bfloat16, [tokens, width])
    let logSumExp = try device.allocate(.float32, [4, tokens])
    let keyStart = try device.tensor([Int32](repeating: 0, count: tokens))
    let keyEnd = try device.tensor((0..<tokens).map { Int32($0 + 1) })
    func step() {
      device.attention(
        qkv, heads: 4, keyValueHeads: 4, keyStart: keyStart, keyEnd: keyEnd, into: output, logSumExp: logSumExp)
    }
    for _ in 0..<10 { step() }
    let before = device.allocatedBytes
    for _ in 0..<10 { step() }
    #expect(device.allocatedBytes == before)
  }
}
