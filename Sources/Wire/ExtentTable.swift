/// Where the pieces of a frame lie in its sender's shared memory: 8 bytes, then 24 for each piece, little-endian.
///
/// ```
///  offset  0        4       8
///         +--------+-------+
///       0 | pieces | zeros |
///         +--------+-------+-------------------+----------------+
///       8 | number of      | offset in the     | bytes          |   for each piece, in the order of the frame
///         | the segment    | segment           |                |
///         +----------------+-------------------+----------------+
/// ```
public struct ExtentTable: Hashable, Sendable {
  public struct Extent: Hashable, Sendable {
    /// Of a ``SegmentOffer`` of the sender's.
    public var segment: UInt32
    public var offset: Int
    public var count: Int
    public init(segment: UInt32, offset: Int, count: Int) {
      self.segment = segment
      self.offset = offset
      self.count = count
    }
  }
  public var extents: [Extent]
  public static let headBytes = 8
  public static let extentBytes = 24
  /// Most pieces of a frame.
  public static let limit = 4_096

  public init(_ extents: [Extent]) { self.extents = extents }

  public static func sizeBytes(_ count: Int) -> Int { headBytes + count * extentBytes }

  /// How many pieces a table says that it has.
  /// - Throws: ``WireError`` when that is none, or more than ``limit``.
  public static func count(reading head: UnsafeRawBufferPointer) throws(WireError) -> Int {
    guard head.count == headBytes else {
      throw .malformed(what: "a table of extents", reason: "its head has \(head.count) bytes")
    }
    let count = UInt64(littleEndian: head.loadUnaligned(fromByteOffset: 0, as: UInt64.self))
    guard count > 0 else { throw .malformed(what: "a table of extents", reason: "it is empty") }
    return Int(try WireLimits.number(count, "extents.count", atMost: UInt64(limit)))
  }

  /// Reads a table of a peer that is not trusted: whether the extents are within their segments is not known here.
  /// - Throws: ``WireError``; never traps, whatever the bytes are.
  public init(reading bytes: UnsafeRawBufferPointer) throws(WireError) {
    let count = try Self.count(reading: UnsafeRawBufferPointer(rebasing: bytes.prefix(Self.headBytes)))
    guard bytes.count == Self.sizeBytes(count) else {
      throw .malformed(what: "a table of extents", reason: "\(bytes.count) bytes for \(count) extents")
    }
    func get(_ offset: Int) -> UInt64 {
      UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
    extents = []
    extents.reserveCapacity(count)
    for index in 0..<count {
      let start = Self.sizeBytes(index)
      let segment = try WireLimits.number(get(start), "extent.segment", atMost: UInt64(SegmentOffer.numberLimit))
      // None is above 2^40, so offset and count can be added, and so can the counts of all.
      let offset = try WireLimits.number(get(start + 8), "extent.offset", atMost: SegmentOffer.segmentBytesLimit)
      let size = try WireLimits.number(get(start + 16), "extent.bytes", atMost: SegmentOffer.segmentBytesLimit)
      extents.append(Extent(segment: UInt32(segment), offset: Int(offset), count: Int(size)))
    }
  }

  /// - Precondition: `bytes` has ``sizeBytes(_:)`` of as many extents.
  public func write(into bytes: UnsafeMutableRawBufferPointer) {
    precondition(bytes.count == Self.sizeBytes(extents.count))
    func put(_ value: Int, _ offset: Int) {
      bytes.storeBytes(of: UInt64(value).littleEndian, toByteOffset: offset, as: UInt64.self)
    }
    put(extents.count, 0)
    for (index, extent) in extents.enumerated() {
      let start = Self.sizeBytes(index)
      put(Int(extent.segment), start)
      put(extent.offset, start + 8)
      put(extent.count, start + 16)
    }
  }

  /// Bytes of the frame.
  public var totalBytes: Int { extents.reduce(0) { $0 + $1.count } }
}
