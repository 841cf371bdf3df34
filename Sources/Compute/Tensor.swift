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

/// The extents of a tensor, at most four. Held in place: views are made by the thousand in a step, and an array each
/// would be an allocation each.
public struct Extents: RandomAccessCollection, ExpressibleByArrayLiteral, Hashable, Sendable, CustomStringConvertible {
  @usableFromInline var first = 1
  @usableFromInline var second = 1
  @usableFromInline var third = 1
  @usableFromInline var fourth = 1
  @usableFromInline var storedCount = 0
  public var count: Int { storedCount }

  /// - Precondition: at most four extents.
  @inlinable
  public init(arrayLiteral elements: Int...) { self.init(elements) }

  @inlinable
  public init(_ extents: some Collection<Int>) {
    precondition(extents.count <= 4, "a tensor has at most four dimensions, not \(extents.count)")
    for extent in extents { append(extent) }
  }

  @inlinable
  mutating func append(_ extent: Int) {
    switch count {
    case 0: first = extent
    case 1: second = extent
    case 2: third = extent
    default: fourth = extent
    }
    storedCount += 1
  }

  public var startIndex: Int { 0 }
  public var endIndex: Int { count }
  public subscript(index: Int) -> Int {
    precondition(index >= 0 && index < count, "dimension \(index) of \(count)")
    return switch index {
    case 0: first
    case 1: second
    case 2: third
    default: fourth
    }
  }

  /// Elements of a tensor, and of one index of its first dimension.
  var elementCount: Int { first * second * third * fourth }
  var rowCount: Int { second * third * fourth }
  /// The same with another first extent.
  func replacingFirst(_ extent: Int) -> Extents {
    var result = self
    result.first = extent
    return result
  }

  public var description: String { "\(Array(self))" }
}

/// A dense row-major block of elements in some device's storage: a handle, not an address.
public struct Tensor {
  public let storage: Storage
  /// First element, counted in elements of `storage.type`.
  public let offset: Int
  public let shape: Extents

  public init(storage: Storage, offset: Int, shape: Extents) {
    precondition(offset >= 0 && offset + shape.elementCount <= storage.count, "tensor outside its storage")
    self.storage = storage
    self.offset = offset
    self.shape = shape
  }

  public var type: ElementType { storage.type }
  public var count: Int { shape.elementCount }
  /// Elements in one index of the first dimension.
  public var rowCount: Int { shape.rowCount }

  /// The same elements under another shape of equal count.
  public func reshaped(_ shape: Extents) -> Tensor {
    precondition(shape.elementCount == count)
    return Tensor(storage: storage, offset: offset, shape: shape)
  }
  /// Rows `range` of the first dimension.
  public func rows(_ range: Range<Int>) -> Tensor {
    precondition(range.lowerBound >= 0 && range.upperBound <= shape[0])
    return Tensor(
      storage: storage, offset: offset + range.lowerBound * rowCount, shape: shape.replacingFirst(range.count))
  }
  /// That a tensor of `count` elements may lie `byteOffset` bytes behind this one's first.
  func checkOverlay(_ type: ElementType, count: Int, at byteOffset: Int) {
    precondition(
      byteOffset >= 0 && byteOffset % type.sizeBytes == 0
        && byteOffset + count * type.sizeBytes <= self.count * self.type.sizeBytes, "an overlay outside its memory")
  }
  /// A part of a flat tensor under a shape of its own.
  public func slice(at start: Int, shape: Extents) -> Tensor {
    precondition(start >= 0 && start + shape.elementCount <= count)
    return Tensor(storage: storage, offset: offset + start, shape: shape)
  }
}
