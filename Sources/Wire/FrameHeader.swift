import ClusterModel

/// What the elements of a data frame are; sender and receiver must agree.
public enum FrameElement: UInt8, Hashable, Sendable, CaseIterable {
  case bytes = 0
  case float32 = 1
  case bfloat16 = 2
  case int32 = 3
  case float64 = 4
}

/// First part of every message on the data plane: 88 bytes, little-endian.
///
/// ```
///  offset  0       4         5         6         7
///         +-------+---------+---------+---------+---------+
///       0 | magic | version | purpose | element | charged |   magic "TFDP"
///         +-------+---------+---------+---------+---------+
///       8 | run tag, high 64 bits | run tag, low 64 bits  |
///      24 | generation            | step                  |
///      40 | total bytes of frame  | offset of this chunk  |
///      56 | chunk bytes | sender  | microbatch | stage    |
///         +-------------+---------+------------+----------+
///      72 | part        | key kind, 3 zero bytes |
///      80 | CRC-32C of the payload | CRC-32C of bytes 0 ..< 84 |
///         +------------------------+---------------------------+
/// ```
///
/// A `data` message has the chunk's payload as its second part, `share` a ``SegmentOffer``, `open` a
/// ``HostIdentity`` where its sender can share memory; the others have one part. The two checksums are filled in
/// and verified by the owner of the sockets, who has the bytes.
///
/// In `placed` messages the offset is that of the payload in the sender's segment, "chunk bytes" the number of
/// the segment, and the payload's checksum the stamp that precedes the payload there. In `lent` messages they say where
/// the frame's ``ExtentTable`` lies, and "total bytes" is the size of the frame itself.
public struct FrameHeader: Hashable, Sendable {
  public enum Purpose: UInt8, Sendable, CaseIterable {
    /// One chunk of the frame named by `key`.
    case data = 1
    /// A sender introduces itself for its generation, and again from time to time; answered by `grant`.
    case open = 2
    /// The receiver has allowed `totalBytes` since the generation began.
    case grant = 3
    /// The receiver waits for `key` with a buffer of its own: its chunks need no grant.
    case want = 4
    /// As `want`, and nothing came for a while: begin again at `chunkOffset`.
    case resend = 5
    /// The receiver has all of `key`: the sender may forget it.
    case taken = 6
    /// The receiver runs on the sender's host and will read frames where the sender has them.
    case invite = 7
    /// A segment of the sender's memory in which frames are going to lie.
    case share = 8
    /// All of the frame named by `key` lies in a segment that was shared before.
    case placed = 9
    /// The receiver could not map a segment: frames must travel as `data`.
    case refuse = 10
    /// All of the frame named by `key` lies in several places of segments that were shared before.
    case lent = 11
  }
  public static let sizeBytes = 88
  /// The part of the header that its own checksum covers.
  public static let coveredBytes = 84
  public static let magic: UInt32 = 0x5044_4654
  public static let version: UInt8 = 2

  public var purpose: Purpose
  public var element: FrameElement
  /// Whether the chunk was taken from the sender's grant.
  public var charged: Bool
  public var run: RunTag
  public var generation: Generation
  public var sender: WorkerID
  public var key: FrameKey
  public var totalBytes: Int
  public var chunkOffset: Int
  public var chunkBytes: Int
  public var payloadChecksum: UInt32

  public init(
    purpose: Purpose, element: FrameElement = .bytes, charged: Bool = false, run: RunTag, generation: Generation,
    sender: WorkerID, key: FrameKey, totalBytes: Int = 0, chunkOffset: Int = 0, chunkBytes: Int = 0,
    payloadChecksum: UInt32 = 0
  ) {
    self.purpose = purpose
    self.element = element
    self.charged = charged
    self.run = run
    self.generation = generation
    self.sender = sender
    self.key = key
    self.totalBytes = totalBytes
    self.chunkOffset = chunkOffset
    self.chunkBytes = chunkBytes
    self.payloadChecksum = payloadChecksum
  }

  /// Writes the header; `checksum` is called with its first 84 bytes.
  /// - Precondition: `bytes` has ``sizeBytes``.
  public func write(into bytes: UnsafeMutableRawBufferPointer, checksum: (UnsafeRawBufferPointer) -> UInt32) {
    precondition(bytes.count == Self.sizeBytes)
    func put(_ value: some FixedWidthInteger, _ offset: Int) {
      bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: type(of: value))
    }
    put(Self.magic, 0)
    put(Self.version, 4)
    put(purpose.rawValue, 5)
    put(element.rawValue, 6)
    put(UInt8(charged ? 1 : 0), 7)
    put(run.high, 8)
    put(run.low, 16)
    put(generation.number, 24)
    put(key.step, 32)
    put(UInt64(totalBytes), 40)
    put(UInt64(chunkOffset), 48)
    put(UInt32(chunkBytes), 56)
    put(sender.number, 60)
    put(key.microbatch, 64)
    put(key.stage, 68)
    put(key.part, 72)
    put(UInt32(key.kind.rawValue), 76)
    put(payloadChecksum, 80)
    put(checksum(UnsafeRawBufferPointer(rebasing: bytes[..<Self.coveredBytes])), 84)
  }

  /// Reads and checks a header from a peer that is not trusted.
  /// - Throws: ``WireError``; never traps, whatever the bytes are.
  public init(
    reading bytes: UnsafeRawBufferPointer, checksum: (UnsafeRawBufferPointer) -> UInt32
  ) throws(WireError) {
    func malformed(_ reason: String) -> WireError { .malformed(what: "the data frame", reason: reason) }
    guard bytes.count == Self.sizeBytes else { throw malformed("its header has \(bytes.count) bytes") }
    func get<Value: FixedWidthInteger>(_ offset: Int, _ type: Value.Type) -> Value {
      Value(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: type))
    }
    guard get(0, UInt32.self) == Self.magic else { throw malformed("no magic number") }
    guard get(4, UInt8.self) == Self.version else { throw malformed("version \(get(4, UInt8.self))") }
    guard get(84, UInt32.self) == checksum(UnsafeRawBufferPointer(rebasing: bytes[..<Self.coveredBytes])) else {
      throw malformed("header checksum")
    }
    guard let purpose = Purpose(rawValue: get(5, UInt8.self)) else {
      throw .unknownCase(field: "frame.purpose", value: Int(get(5, UInt8.self)))
    }
    guard let element = FrameElement(rawValue: get(6, UInt8.self)) else {
      throw .unknownCase(field: "frame.element", value: Int(get(6, UInt8.self)))
    }
    guard let kind = FrameKey.Kind(rawValue: UInt8(truncatingIfNeeded: get(76, UInt32.self))),
      get(76, UInt32.self) <= 0xFF
    else {
      throw .unknownCase(field: "frame.kind", value: Int(get(76, UInt32.self)))
    }
    guard get(7, UInt8.self) <= 1 else { throw malformed("charged flag") }
    let total = try WireLimits.number(get(40, UInt64.self), "frame.totalBytes", atMost: WireLimits.count)
    let offset = try WireLimits.number(get(48, UInt64.self), "frame.chunkOffset", atMost: WireLimits.count)
    let chunk = try WireLimits.number(
      get(56, UInt32.self), "frame.chunkBytes", atMost: UInt32(WireLimits.chunkBytes))
    // None is above 2^60, so the sum fits.
    if purpose == .data && offset + UInt64(chunk) > total {
      throw .outOfRange(
        field: "frame.chunkOffset", value: "\(offset) + \(chunk)", allowed: "within the \(total) bytes of the frame")
    }
    self.init(
      purpose: purpose, element: element, charged: get(7, UInt8.self) == 1,
      run: RunTag(high: get(8, UInt64.self), low: get(16, UInt64.self)),
      generation: Generation(try WireLimits.number(get(24, UInt64.self), "frame.generation", atMost: WireLimits.count)),
      sender: WorkerID(get(60, UInt32.self)),
      key: FrameKey(
        kind: kind, step: try WireLimits.step(get(32, UInt64.self), "frame.step"), microbatch: get(64, UInt32.self),
        stage: get(68, UInt32.self), part: get(72, UInt32.self)),
      totalBytes: Int(total), chunkOffset: Int(offset), chunkBytes: Int(chunk),
      payloadChecksum: get(80, UInt32.self))
  }
}
