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

  private final class Shelf: SharedMemory {
    final class Block: SharedBlock {
      let address: UnsafeMutableRawPointer
      private let shelf: Shelf
      init(_ byteCount: Int, _ shelf: Shelf) {
        address = .allocate(byteCount: byteCount, alignment: 4_096)
        address.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
        self.shelf = shelf
      }
      deinit {
        shelf.blocks -= 1
        address.deallocate()
      }
    }
    var blocks = 0
    var isEmpty = false
    func allocate(byteCount: Int) -> (any SharedBlock)? {
      if isEmpty { return nil }
      blocks += 1
      return Block(byteCount, self)
    }
  }

  @Test func sharedTensorsLieWhereOthersReadThem() throws {
    let shelf = Shelf()
    let device = try CPUDevice(threads: 1, memoryLimitBytes: 1 << 20, sharedMemory: shelf)
    do {
      let shared = try device.allocateShared(.float32, [1_000])
      #expect(shelf.blocks == 1 && device.allocatedBytes == 4_000)
      device.fill(shared, with: 2)
      let bytes = try #require(try device.sharedBytes(of: shared.slice(at: 10, shape: [20])))
      #expect(bytes.count == 80 && bytes.bindMemory(to: Float.self).allSatisfy { $0 == 2 })
      #expect(throws: DeviceError.self) { try device.allocateShared(.float32, [1 << 20]) }
      // Others are the device's own, and so are shared ones when there is no more room.
      #expect(try device.sharedBytes(of: device.allocate(.float32, [10])) == nil)
      shelf.isEmpty = true
      #expect(try device.sharedBytes(of: device.allocateShared(.float32, [10])) == nil)
      #expect(shelf.blocks == 1)
    }
    #expect(shelf.blocks == 0 && device.allocatedBytes == 0)
  }

  @Test func overlaysLieInTheirMemoryAndTakeNone() throws {
    let shelf = Shelf()
    let device = try CPUDevice(threads: 1, sharedMemory: shelf)
    var narrow: Tensor?
    do {
      let memory = try device.allocateShared(.float32, [100])
      let part = memory.slice(at: 20, shape: [80])
      let overlay = device.overlay(.bfloat16, [2, 8], on: part, at: 40)
      #expect(device.allocatedBytes == 400)
      device.fill(memory, with: 1)
      device.fill(overlay, with: 2)
      let floats = try device.floats(memory)
      #expect(floats[..<30].allSatisfy { $0 == 1 } && floats[38...].allSatisfy { $0 == 1 })
      #expect(floats[30..<38].allSatisfy { $0.bitPattern == 0x4000_4000 })
      #expect(try device.sharedBytes(of: overlay) != nil)
      narrow = overlay
    }
    // What lies in the memory keeps it.
    #expect(shelf.blocks == 1 && device.allocatedBytes == 400)
    narrow = nil
    #expect(narrow == nil && shelf.blocks == 0 && device.allocatedBytes == 0)
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
      // Which products are ours. With AVX-512 those of bfloat16 are the processor's affair.
      #expect(device.fingerprint.contains("+float32") == (set != .portable))
      #expect(device.fingerprint.contains("+widened") == (set == .avx2))
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
