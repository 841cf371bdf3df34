import Benchmarks
import CCounters
import Compute
import Foundation
import KernelInterface
import Testing
import TransfusionModel
import Transport

/// What a steady step may allocate and copy. The counts do not depend on time or load, so the limits are tight: what
/// was measured and 3 % more for bytes, 10 % more for allocations, whose number depends a little on the threads. One
/// more copy of a [T, D] tensor is 8 % of the copied bytes. Raise a limit only with a reason; lower it when an
/// improvement leaves it loose (`TRANSFUSION_SHOW_COUNTS=1 ops/test --filter StepCountTests` shows the counts).
///
/// Copies are those of memcpy, memmove and memset called by our own code: kernels that convert or add are not among
/// them, nor is what libraries copy. Allocations inside oneDNN, libzmq and the C++ runtime are counted apart and not
/// limited: the first depend on the processor, the others on the moment.
enum CountLimits {
  struct Limits {
    /// Heap allocations: what closures hold, and the tiles of attention.
    var allocations: Double
    var allocatedBytes: Double
    var copiedBytes: Double
    var filledBytes: Double
    /// Of one allocation: larger ones belong to a device.
    var largestBytes: Double
  }
  /// By precision, and by whether its products are our own kernels or the library's (which are measured with the portable
  /// build, so that every x86-64 machine checks both).
  static func limits(_ precision: Precision, ownProducts: Bool) -> Limits {
    switch (precision, ownProducts) {
    // Measured: 319 allocations of 17,544 bytes, 3,382,336 bytes copied, 5,960,688 filled.
    case (.float32, false):
      Limits(
        allocations: 351, allocatedBytes: 19_300, copiedBytes: 3_484_000, filledBytes: 6_139_000, largestBytes: 2_048)
    // Measured: 476 allocations of 22,056 bytes, 3,376,256 bytes copied, 5,959,808 filled, where the library multiplies
    // float32 alone and operands are widened before; 327, 17,288, 3,305,536 and 5,935,088 where it need not.
    case (.bfloat16, false):
      Limits(
        allocations: 524, allocatedBytes: 24_300, copiedBytes: 3_478_000, filledBytes: 6_139_000, largestBytes: 2_048)
    // Measured: 366 allocations of 18,536 bytes, 1,285,184 bytes copied, 5,960,688 filled.
    case (.float32, true):
      Limits(
        allocations: 403, allocatedBytes: 20_400, copiedBytes: 1_324_000, filledBytes: 6_139_000, largestBytes: 2_048)
    // Measured: 373 allocations of 18,760 bytes, 1,241,152 bytes copied, 6,066,160 filled.
    case (.bfloat16, true):
      Limits(
        allocations: 411, allocatedBytes: 20_700, copiedBytes: 1_279_000, filledBytes: 6_248_000, largestBytes: 2_048)
    }
  }
  /// In five steps; measured: 0 to 201. None is needed, but the kernel may move pages of a process on its own; a new
  /// buffer of 2 MiB in every step would be 2,560.
  static let pageFaults: UInt64 = 768
  /// Bytes that both members of an all-reduce copy by memcpy, over its payload: none of it, each reads what the other lends
  /// where it lies. Measured: 0.001.
  static let copiedOverPayload = 0.01
  /// Measured: 720.
  static let allocationsOfAllReduce = 1_200.0
}

@Suite(.serialized) struct StepCountTests {
  static func show(_ name: String, _ text: String) {
    guard ProcessInfo.processInfo.environment["TRANSFUSION_SHOW_COUNTS"] != nil else { return }
    FileHandle.standardError.write(Data("counts of \(name): \(text)\n".utf8))
  }

  /// The processor's own kernels, those that every x86-64 processor of ours has, and those of all others.
  private static let instructionSets: [InstructionSet?] = {
    #if arch(x86_64)
      [nil, .avx2, .portable]
    #else
      [nil]
    #endif
  }()

  @Test(arguments: Precision.allCases, instructionSets)
  func aSteadyStepAllocatesAndCopiesNoMoreThanItDid(_ precision: Precision, _ instructionSet: InstructionSet?) throws {
    guard counters_available() else { return }
    var model = BenchmarkPreset.tiny.model(patches: 16)
    model.vocabulary = 1_024
    let batch = SyntheticMicrobatch.make(model, rows: 2, length: 128, seed: 1)
    let device = try CPUDevice(threads: 2, instructionSet: instructionSet)
    let step = try TrainingStep(
      model, limits: MicrobatchLimits(rows: 2, length: 128, images: batch.images), precision: precision,
      recompute: .nothing, device: device)
    for index in 0..<4 { _ = try step.run(batch, step: UInt64(index)) }
    let before = device.allocatedBytes
    let steps = 5
    counters_start()
    for index in 4..<4 + steps { _ = try step.run(batch, step: UInt64(index)) }
    let counts = counters_stop()
    #expect(device.allocatedBytes == before, "the device's tensors and scratch memory grew")
    Self.show("\(precision), \(device.fingerprint)", "\(counts)")

    let own = precision == .float32 ? ["+float32"] : ["+tiles", "+pairs", "+widened"]
    let ownProducts = own.contains { device.fingerprint.contains($0) }
    let limits = CountLimits.limits(precision, ownProducts: ownProducts)
    func perStep(_ count: UInt64) -> Double { Double(count) / Double(steps) }
    for (name, value, limit) in [
      ("allocations", perStep(counts.allocations), limits.allocations),
      ("allocated bytes", perStep(counts.allocated_bytes), limits.allocatedBytes),
      ("copied bytes", perStep(counts.copied_bytes), limits.copiedBytes),
      ("filled bytes", perStep(counts.filled_bytes), limits.filledBytes),
      ("bytes of the largest allocation", Double(counts.largest_bytes), limits.largestBytes),
    ] {
      #expect(value <= limit, "\(name) of a step: \(value), the limit is \(limit)")
      // A counter that counts nothing would let everything pass.
      #expect(value > 0, "\(name)")
    }
    #expect(counts.page_faults <= CountLimits.pageFaults, "page faults of \(steps) steps")
  }

  @Test func anAllReduceCopiesNoMoreThanItDid() async throws {
    guard counters_available() else { return }
    let planes = [try DataPlane(bind: "tcp://127.0.0.1:*"), try DataPlane(bind: "tcp://127.0.0.1:*")]
    let endpoints = planes.map(\.endpoint)
    let mebibytes = 16
    let second = Task.detached {
      let member = try AllReduceMember(plane: planes[1], other: endpoints[0], replica: 1)
      let sum = try member.prepare(mebibytes: mebibytes)
      for _ in 0..<3 { _ = try member.trial(sum) }
      try member.check(sum)
      return planes[1].counters.receivedLentFrames
    }
    let counts = try await Task.detached {
      let member = try AllReduceMember(plane: planes[0], other: endpoints[1], replica: 0)
      let sum = try member.prepare(mebibytes: mebibytes)
      for _ in 0..<2 { _ = try member.trial(sum) }
      _ = try member.trial(sum) { counters_start() }
      let counts = counters_stop()
      try member.check(sum)
      return counts
    }.value
    let lent = try await second.value
    #expect(lent > 0, "gradients are read where they lie")
    for plane in planes { plane.close() }
    Self.show("all-reduce of \(mebibytes) MiB", "\(counts)")
    let copied = Double(counts.copied_bytes) / Double(mebibytes << 20)
    #expect(copied <= CountLimits.copiedOverPayload, "bytes copied over bytes summed: \(copied)")
    #expect(Double(counts.allocations) <= CountLimits.allocationsOfAllReduce, "\(counts.allocations) allocations")
  }
}
