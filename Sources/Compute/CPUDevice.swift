import COneDNN
import Glibc
import KernelInterface

/// The processor as a `Device`: SIMD kernels for the instruction set found at start, matrix products by kernels of our own
/// or oneDNN (see `Processor.productKernels`), threads of its own.
///
/// Every operation is finished when its call returns. Results do not depend on the number of threads: work is
/// cut into tiles whose shape follows from the operands' shapes, and no sum crosses a tile.
/// Owned by one thread at a time.
public final class CPUDevice: Device {
  public let fingerprint: String
  /// The build of the kernels in use.
  public let instructionSet: InstructionSet
  public var threads: Int { pool.threads }

  let pool: ThreadPool
  let kernels: KernelTable
  let lanes: [Lane]
  let products: MatmulCache
  let budget: MemoryBudget
  /// Shared by the threads of one operation; `Lane.scratch` is each thread's own.
  let scratch: ScratchMemory
  /// For bfloat16 operands that are widened where neither our own kernels nor oneDNN multiply them, and for partial sums.
  let widened: ScratchMemory
  let multipliesBFloat16: Bool
  let own: OwnProducts
  /// The operand of a product that all threads read, packed for our own kernels.
  let packed: ScratchMemory
  let sharedMemory: (any SharedMemory)?
  private let callersProcessor: Int?
  private var fault: DeviceError?

  /// - Parameters:
  ///   - threads: how many threads compute, the caller included.
  ///   - memoryLimitBytes: `allocate` throws rather than pass it.
  ///   - instructionSet: the best of this processor where nil.
  ///   - processors: thread i stays on `processors[i]`, the caller when it has called ``tieCaller()``.
  ///   - sharedMemory: where ``allocateShared(_:_:)`` puts tensors.
  public init(
    threads: Int, memoryLimitBytes: Int? = nil, instructionSet: InstructionSet? = nil, processors: [Int]? = nil,
    sharedMemory: (any SharedMemory)? = nil
  ) throws(DeviceError) {
    let (chosen, kernels) = try Processor.kernels(instructionSet)
    // oneDNN cuts sums by its own number of threads: unless that is one, results would depend on the host.
    guard onednn_use_one_thread() == 0 else {
      throw .unsupportedProcessor(
        needs:
          "this oneDNN was built with a thread runtime that cannot be held to one thread; use one built with OpenMP")
    }
    self.instructionSet = chosen
    self.sharedMemory = sharedMemory
    self.kernels = kernels
    let budget = MemoryBudget(limitBytes: memoryLimitBytes)
    self.budget = budget
    pool = ThreadPool(threads: max(threads, 1), processors: processors)
    callersProcessor = processors?.first
    var lanes: [Lane] = []
    for index in 0..<pool.threads { lanes.append(try Lane(index: index, budget: budget)) }
    self.lanes = lanes
    own = Processor.productKernels(chosen)
    products = MatmulCache(lanes: pool.threads, own: own)
    packed = ScratchMemory(budget: budget)
    scratch = ScratchMemory(budget: budget)
    widened = ScratchMemory(budget: budget)
    multipliesBFloat16 = own.bfloat16 != nil || onednn_supports_bfloat16() != 0
    let library = String(cString: onednn_instruction_set_name())
    let version = String(cString: onednn_version_text())
    // The library is named even where no product is its own: which are may change, and with them the bits.
    fingerprint =
      "cpu/\(Processor.architecture)/\(chosen.rawValue)\(own.name)+\(library)/onednn-\(version)"
  }

  /// The calling thread, which computes with the device's own, stays on the first of the `processors`.
  public func tieCaller() {
    if let callersProcessor { ProcessorAffinity.tie(to: callersProcessor) }
  }

  /// Bytes held by tensors and scratch memory now.
  public var allocatedBytes: Int { budget.usedBytes }

  // MARK: Memory

  public func allocate(_ type: ElementType, _ shape: Extents) throws(DeviceError) -> Tensor {
    try allocate(type, shape, in: nil)
  }

  func allocate(_ type: ElementType, _ shape: Extents, in shared: (any SharedMemory)?) throws(DeviceError) -> Tensor {
    var count = 1
    for extent in shape {
      precondition(extent >= 0, "negative extent in shape \(shape)")
      let (product, overflow) = count.multipliedReportingOverflow(by: extent)
      if overflow { throw .outOfMemory(requestedBytes: .max, limitBytes: budget.limitBytes ?? .max) }
      count = product
    }
    let buffer = try CPUBuffer(type: type, count: count, budget: budget, shared: shared)
    return Tensor(storage: buffer, offset: 0, shape: shape)
  }

  public func overlay(_ type: ElementType, _ shape: Extents, on memory: Tensor, at byteOffset: Int) -> Tensor {
    memory.checkOverlay(type, count: shape.elementCount, at: byteOffset)
    let start = memory.offset * memory.type.sizeBytes + byteOffset
    precondition(start % type.sizeBytes == 0, "an overlay between its elements' places")
    return Tensor(
      storage: CPUBuffer(type: type, count: shape.elementCount, in: buffer(of: memory), at: start), offset: 0,
      shape: shape)
  }

  public func upload(_ bytes: UnsafeRawBufferPointer, to tensor: Tensor) {
    precondition(
      bytes.count == tensor.count * tensor.type.sizeBytes, "upload of \(bytes.count) bytes to shape \(tensor.shape)")
    if let source = bytes.baseAddress { memcpy(address(tensor), source, bytes.count) }
  }

  public func download(_ tensor: Tensor, into bytes: UnsafeMutableRawBufferPointer) throws(DeviceError) {
    try wait()
    precondition(
      bytes.count == tensor.count * tensor.type.sizeBytes, "download of shape \(tensor.shape) to \(bytes.count) bytes")
    if let destination = bytes.baseAddress { memcpy(destination, address(tensor), bytes.count) }
  }

  /// Throws the first fault since the last wait; operations themselves are done when they return.
  public func wait() throws(DeviceError) {
    if let fault {
      self.fault = nil
      throw fault
    }
  }

  // MARK: For the operations

  private func buffer(of tensor: Tensor) -> CPUBuffer {
    guard let buffer = tensor.storage as? CPUBuffer else {
      preconditionFailure("a tensor of another device was given to \(fingerprint)")
    }
    return buffer
  }

  func address(_ tensor: Tensor) -> MutableBytes {
    buffer(of: tensor).address + tensor.offset * tensor.type.sizeBytes
  }

  func floats(at tensor: Tensor) -> MutableFloats {
    precondition(tensor.type == .float32, "expected float32, got \(tensor.type)")
    return address(tensor).assumingMemoryBound(to: Float.self)
  }

  func integers(at tensor: Tensor) -> UnsafePointer<Int32> {
    precondition(tensor.type == .int32, "expected int32, got \(tensor.type)")
    return UnsafePointer(address(tensor).assumingMemoryBound(to: Int32.self))
  }

  func typed(_ type: ElementType) -> TypedKernels {
    switch type {
    case .float32: kernels.float32
    case .bfloat16: kernels.bfloat16
    case .int32, .float64: preconditionFailure("\(type) is not a compute type")
    }
  }

  /// Keeps the first fault for the next `wait`.
  func record(_ failure: DeviceError) { if fault == nil { fault = failure } }

  /// `parallelFor` whose tiles may run matrix products: their failures are recorded.
  func parallel(_ count: Int, _ body: (_ index: Int, _ lane: Lane) -> Void) {
    let lanes = lanes
    pool.parallelFor(count) { body($0, lanes[$1]) }
    for lane in lanes {
      if let failure = lane.failure {
        record(failure)
        lane.failure = nil
      }
    }
  }

  /// Calls `body` on blocks of 0..<count of a fixed size.
  func forEachBlock(of count: Int, size: Int, _ body: (Range<Int>) -> Void) {
    let cut = TileCut(total: count, size: size)
    pool.parallelFor(cut.count) { index, _ in body(cut.range(index)) }
  }

  /// Rows of `width` elements in one block: about 16,384 elements.
  func blockRows(_ width: Int) -> Int { max(1, 16_384 / max(width, 1)) }
}
