/// Says which processes can share memory: equal values see the same memory and each other's descriptors.
///
/// 16 bytes, little-endian: a hash of the host's boot and of the process namespace. Equality is a hint that is
/// worth trying to map; what is mapped proves itself by its ``SegmentOffer/token``.
public struct HostIdentity: Hashable, Sendable {
  public let high: UInt64
  public let low: UInt64
  public static let sizeBytes = 16

  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  public init(reading bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count == Self.sizeBytes else {
      throw .malformed(what: "the host identity", reason: "it has \(bytes.count) bytes")
    }
    high = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
    low = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
  }

  /// - Precondition: `bytes` has ``sizeBytes``.
  public func write(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.sizeBytes)
    bytes.storeBytes(of: high.littleEndian, toByteOffset: 0, as: UInt64.self)
    bytes.storeBytes(of: low.littleEndian, toByteOffset: 8, as: UInt64.self)
  }
}

/// Where a process of the same host finds a segment of the sender's memory: 40 bytes, little-endian.
///
/// ```
///  offset  0         4         8            12
///         +---------+---------+------------+--------+
///       0 | number  | process | descriptor | zeros  |
///         +---------+---------+------------+--------+
///      16 | size in bytes     | token, high 64 bits |
///         +-------------------+---------------------+
///      32 | token, low        |
///         +-------------------+
/// ```
public struct SegmentOffer: Hashable, Sendable {
  /// The sender's number for it, in `placed` messages.
  public var number: UInt32
  public var process: Int32
  public var descriptor: Int32
  public var segmentBytes: Int
  /// Stands at the beginning of the segment: shows that what was mapped is what was offered.
  public var tokenHigh: UInt64
  public var tokenLow: UInt64

  public static let sizeBytes = 40
  /// The greatest number, which has its place in a frame's header.
  public static let numberLimit = UInt32(WireLimits.chunkBytes)
  /// Far above what anybody shares, far below what overflows.
  public static let segmentBytesLimit: UInt64 = 1 << 40

  public init(
    number: UInt32, process: Int32, descriptor: Int32, segmentBytes: Int, tokenHigh: UInt64, tokenLow: UInt64
  ) {
    self.number = number
    self.process = process
    self.descriptor = descriptor
    self.segmentBytes = segmentBytes
    self.tokenHigh = tokenHigh
    self.tokenLow = tokenLow
  }

  /// Reads an offer of a peer that is not trusted; it must not be used before it is tried.
  /// - Throws: ``WireError``; never traps, whatever the bytes are.
  public init(reading bytes: UnsafeRawBufferPointer) throws(WireError) {
    guard bytes.count == Self.sizeBytes else {
      throw .malformed(what: "the offer of a segment", reason: "it has \(bytes.count) bytes")
    }
    func get<Value: FixedWidthInteger>(_ offset: Int, _ type: Value.Type) -> Value {
      Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: type))
    }
    process = get(4, Int32.self)
    descriptor = get(8, Int32.self)
    guard process > 0 && descriptor >= 0 else {
      throw .outOfRange(
        field: "segment.descriptor", value: "\(process), \(descriptor)", allowed: "a process and its descriptor")
    }
    guard get(12, UInt32.self) == 0 else { throw .malformed(what: "the offer of a segment", reason: "not zeros") }
    number = try WireLimits.number(get(0, UInt32.self), "segment.number", atMost: Self.numberLimit)
    let size = try WireLimits.number(get(16, UInt64.self), "segment.bytes", atMost: Self.segmentBytesLimit)
    segmentBytes = Int(size)
    tokenHigh = get(24, UInt64.self)
    tokenLow = get(32, UInt64.self)
  }

  /// - Precondition: `bytes` has ``sizeBytes``.
  public func write(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.sizeBytes)
    func put(_ value: some FixedWidthInteger, _ offset: Int) {
      bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: type(of: value))
    }
    put(number, 0)
    put(process, 4)
    put(descriptor, 8)
    put(UInt32(0), 12)
    put(UInt64(segmentBytes), 16)
    put(tokenHigh, 24)
    put(tokenLow, 32)
  }
}
