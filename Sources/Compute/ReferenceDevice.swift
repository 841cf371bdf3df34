/// The specification of every device operation: plain loops in float64, in the order a reader would
/// write them.
///
/// Operations are only recorded by the call and run, in order, at `wait` or `download`: whoever reads a
/// result before asking for it sees none. Inputs are copied when `upload` is called.
public final class ReferenceDevice: Device {
  /// How results are kept.
  public enum Rounding: Sendable, Hashable {
    /// Every float stays float64, whatever its tensor's type: the exact mathematics.
    case none
    /// A result is rounded once, when it is stored, to its tensor's element type (nearest even): what a
    /// device with exact arithmetic and memory of these types would hold.
    case toElementType
  }

  public let rounding: Rounding
  /// Bytes of every tensor allocated so far, counted in their element types; freed ones included.
  public private(set) var requestedBytes = 0
  private var queue: [() -> Void] = []

  public init(rounding: Rounding = .none) { self.rounding = rounding }

  public var fingerprint: String {
    switch rounding {
    case .none: "reference/float64"
    case .toElementType: "reference/rounded"
    }
  }

  /// Operations that were asked for and have not run yet.
  public var pendingOperations: Int { queue.count }

  // MARK: Memory

  public func allocate(_ type: ElementType, _ shape: Extents) throws(DeviceError) -> Tensor {
    precondition(shape.allSatisfy { $0 >= 0 }, "a negative dimension")
    requestedBytes += shape.reduce(1, *) * type.sizeBytes
    return Tensor(storage: ReferenceStorage(type: type, count: shape.reduce(1, *)), offset: 0, shape: shape)
  }

  /// Elements are as wide as float64 here, so an overlay has memory of its own, which counts nothing.
  public func overlay(_ type: ElementType, _ shape: Extents, on memory: Tensor, at byteOffset: Int) -> Tensor {
    memory.checkOverlay(type, count: shape.elementCount, at: byteOffset)
    return Tensor(storage: ReferenceStorage(type: type, count: shape.elementCount), offset: 0, shape: shape)
  }

  public func upload(_ bytes: UnsafeRawBufferPointer, to tensor: Tensor) {
    precondition(bytes.count == tensor.count * tensor.type.sizeBytes, "upload of another size than the tensor")
    let copy = [UInt8](bytes)
    enqueue([]) {
      copy.withUnsafeBytes { bytes in
        for i in 0..<tensor.count {
          switch tensor.type {
          case .int32: tensor.integers[i] = bytes.loadUnaligned(fromByteOffset: 4 * i, as: Int32.self)
          case .float64: tensor.floats[i] = bytes.loadUnaligned(fromByteOffset: 8 * i, as: Double.self)
          case .float32: tensor.floats[i] = Double(bytes.loadUnaligned(fromByteOffset: 4 * i, as: Float.self))
          case .bfloat16:
            tensor.floats[i] = BFloat16.double(bytes.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self))
          }
        }
      }
    }
  }

  public func download(_ tensor: Tensor, into bytes: UnsafeMutableRawBufferPointer) throws(DeviceError) {
    precondition(bytes.count == tensor.count * tensor.type.sizeBytes, "download of another size than the tensor")
    try wait()
    for i in 0..<tensor.count {
      switch tensor.type {
      case .int32: bytes.storeBytes(of: tensor.integers[i], toByteOffset: 4 * i, as: Int32.self)
      case .float64: bytes.storeBytes(of: tensor.floats[i], toByteOffset: 8 * i, as: Double.self)
      case .float32: bytes.storeBytes(of: Float(tensor.floats[i]), toByteOffset: 4 * i, as: Float.self)
      case .bfloat16:
        bytes.storeBytes(of: BFloat16.bits(tensor.floats[i]), toByteOffset: 2 * i, as: UInt16.self)
      }
    }
  }

  public func wait() throws(DeviceError) {
    let recorded = queue
    queue = []
    for operation in recorded { operation() }
  }

  public func fill(_ tensor: Tensor, with value: Float) {
    precondition(tensor.type != .int32)
    enqueue([tensor]) { for i in 0..<tensor.count { tensor.floats[i] = Double(value) } }
  }

  public func copy(_ source: Tensor, to destination: Tensor) {
    precondition(source.count == destination.count && (source.type == .int32) == (destination.type == .int32))
    enqueue([destination]) {
      for i in 0..<source.count {
        if source.type == .int32 {
          destination.integers[i] = source.integers[i]
        } else {
          destination.floats[i] = source.floats[i]
        }
      }
    }
  }

  public func add(_ source: Tensor, to destination: Tensor) {
    precondition(source.count == destination.count && source.type == .float32 && destination.type == .float32)
    enqueue([destination]) { for i in 0..<source.count { destination.floats[i] += source.floats[i] } }
  }

  /// Records an operation that writes `results`.
  func enqueue(_ results: [Tensor], _ operation: @escaping () -> Void) {
    let rounding = rounding
    queue.append {
      operation()
      if rounding == .toElementType { for tensor in results { ReferenceDevice.round(tensor) } }
    }
  }

  private static func round(_ tensor: Tensor) {
    for i in 0..<tensor.count {
      switch tensor.type {
      case .int32, .float64: return
      case .float32: tensor.floats[i] = Double(Float(tensor.floats[i]))
      case .bfloat16: tensor.floats[i] = BFloat16.double(BFloat16.bits(tensor.floats[i]))
      }
    }
  }
}

/// Memory of the reference device: float64 for every float type, int32 for integers.
final class ReferenceStorage: Storage {
  fileprivate let floatMemory: UnsafeMutablePointer<Double>
  fileprivate let integerMemory: UnsafeMutablePointer<Int32>

  override init(type: ElementType, count: Int) {
    let floatCount = type == .int32 ? 0 : count
    let integerCount = type == .int32 ? count : 0
    floatMemory = .allocate(capacity: floatCount)
    floatMemory.initialize(repeating: 0, count: floatCount)
    integerMemory = .allocate(capacity: integerCount)
    integerMemory.initialize(repeating: 0, count: integerCount)
    super.init(type: type, count: count)
  }
  deinit {
    floatMemory.deallocate()
    integerMemory.deallocate()
  }
}

extension Tensor {
  private var referenceStorage: ReferenceStorage {
    guard let storage = storage as? ReferenceStorage else {
      preconditionFailure("a tensor of another device reached the reference device")
    }
    return storage
  }
  /// The elements of a float tensor of the reference device.
  var floats: UnsafeMutablePointer<Double> {
    precondition(type != .int32, "an int32 tensor where floats are expected")
    return referenceStorage.floatMemory + offset
  }
  /// The elements of an int32 tensor of the reference device.
  var integers: UnsafeMutablePointer<Int32> {
    precondition(type == .int32, "a float tensor where int32 is expected")
    return referenceStorage.integerMemory + offset
  }
}

/// The upper half of a float32: what crosses to and from a bfloat16 tensor.
enum BFloat16 {
  /// The nearest bfloat16, ties to even; NaN stays NaN. Rounds through float32, as every device does.
  static func bits(_ value: Double) -> UInt16 {
    let single = Float(value)
    if single.isNaN { return 0x7FC0 }
    let bits = single.bitPattern
    return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ ((bits >> 16) & 1)) >> 16)
  }
  static func double(_ bits: UInt16) -> Double { Double(Float(bitPattern: UInt32(bits) << 16)) }
}
