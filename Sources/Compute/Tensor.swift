/// Types of tensor elements. A device may hold them wider (the reference device keeps every float in
/// float64); bytes that cross by upload and download have exactly this type.
public enum ElementType: UInt8, Sendable, Hashable, Codable {
  case float32 = 0
  case bfloat16 = 1
  case int32 = 2
  case float64 = 3

  public var sizeBytes: Int {
    switch self {
    case .float32, .int32: 4
    case .bfloat16: 2
    case .float64: 8
    }
  }
}

/// Memory on a device; only its device can look inside. Freed when the last tensor in it goes.
open class Storage {
  public let type: ElementType
  public let count: Int
  public init(type: ElementType, count: Int) {
    self.type = type
    self.count = count
  }
}

/// A dense row-major block of elements in some device's storage: a handle, not an address.
public struct Tensor {
  public let storage: Storage
  /// First element, counted in elements of `storage.type`.
  public let offset: Int
  public let shape: [Int]

  public init(storage: Storage, offset: Int, shape: [Int]) {
    precondition(offset >= 0 && offset + shape.reduce(1, *) <= storage.count, "tensor outside its storage")
    self.storage = storage
    self.offset = offset
    self.shape = shape
  }

  public var type: ElementType { storage.type }
  public var count: Int { shape.reduce(1, *) }
  /// Elements in one index of the first dimension.
  public var rowCount: Int { shape.dropFirst().reduce(1, *) }

  /// The same elements under another shape of equal count.
  public func reshaped(_ shape: [Int]) -> Tensor {
    precondition(shape.reduce(1, *) == count)
    return Tensor(storage: storage, offset: offset, shape: shape)
  }
  /// Rows `range` of the first dimension.
  public func rows(_ range: Range<Int>) -> Tensor {
    precondition(range.lowerBound >= 0 && range.upperBound <= shape[0])
    return Tensor(
      storage: storage, offset: offset + range.lowerBound * rowCount, shape: [range.count] + shape.dropFirst())
  }
  /// A part of a flat tensor under a shape of its own.
  public func slice(at start: Int, shape: [Int]) -> Tensor {
    precondition(start >= 0 && start + shape.reduce(1, *) <= count)
    return Tensor(storage: storage, offset: offset + start, shape: shape)
  }
}
