/// What several workers say over one connection: a relay passes it on for those of its host (docs/decisions/0020).
///
/// A zero byte, which no protobuf message begins with; then for each message, little-endian:
/// ```
///  offset  0      4       8
///         +------+-------+------------------+
///         | seat | bytes | the envelope ... |
///         +------+-------+------------------+
/// ```
/// A seat is a worker's connection to the relay, and never given again while the relay lives. A message without bytes
/// says that whoever had the seat has gone.
///
/// To its relay a worker sends envelopes, those that can wait for company behind a zero byte, too.
public struct Bundle: Hashable, Sendable {
  public struct Entry: Hashable, Sendable {
    public var seat: UInt32
    /// An envelope's; none when whoever had the seat has gone.
    public var envelope: Range<Int>
  }
  /// Whose envelopes lie where.
  public let bytes: [UInt8]
  public let entries: [Entry]

  static let mark: UInt8 = 0
  static let entryHeadBytes = 8
  /// Most messages of one bundle, and most workers that a message to a relay is for.
  public static let entriesLimit = 4_096
  /// A bundle that is as large is sent; a larger one holds one message.
  public static let comfortableBytes = 64 << 10

  /// What a worker sends to its relay.
  public static func toRelay(_ envelope: Envelope) -> [UInt8] {
    envelope.message.canWait ? [mark] + envelope.encoded() : envelope.encoded()
  }
  /// What a relay hears from a worker: the envelope's bytes, and whether they can wait.
  public static func fromWorker(_ bytes: [UInt8]) -> (envelope: ArraySlice<UInt8>, canWait: Bool) {
    bytes.first == mark ? (bytes.dropFirst(), true) : (bytes[...], false)
  }

  /// Whether a message is a bundle.
  public static func isBundle(firstByte: UInt8?) -> Bool { firstByte == mark }

  /// Reads what a peer sent that is not trusted; the envelopes are not looked at.
  /// - Throws: ``WireError``; never traps, whatever the bytes are.
  public init(reading bytes: [UInt8]) throws(WireError) {
    guard Self.isBundle(firstByte: bytes.first) else {
      throw .malformed(what: "a bundle", reason: "it does not begin with a zero byte")
    }
    var entries: [Entry] = []
    var offset = 1
    while offset < bytes.count {
      guard bytes.count - offset >= Self.entryHeadBytes else {
        throw .malformed(what: "a bundle", reason: "\(bytes.count - offset) bytes are left over")
      }
      guard entries.count < Self.entriesLimit else {
        throw .tooMany(field: "bundle.entries", count: entries.count + 1, limit: Self.entriesLimit)
      }
      let size = Int(SeatList.number(bytes, offset + 4))
      let start = offset + Self.entryHeadBytes
      guard size <= bytes.count - start else {
        throw .malformed(what: "a bundle", reason: "a message of \(size) bytes where \(bytes.count - start) are left")
      }
      entries.append(Entry(seat: SeatList.number(bytes, offset), envelope: start..<start + size))
      offset = start + size
    }
    guard !entries.isEmpty else { throw .malformed(what: "a bundle", reason: "it is empty") }
    self.bytes = bytes
    self.entries = entries
  }

  /// Puts messages together, in order.
  public struct Builder {
    public private(set) var bytes: [UInt8] = [Bundle.mark]
    public private(set) var count = 0
    public init() {}

    /// Whether another message of that size should wait for the next bundle.
    public func isFull(forBytes size: Int) -> Bool {
      count > 0 && (count == Bundle.entriesLimit || bytes.count + size > Bundle.comfortableBytes)
    }
    public mutating func append(_ envelope: some Collection<UInt8>, from seat: UInt32) {
      count += 1
      SeatList.append(seat, to: &bytes)
      SeatList.append(UInt32(envelope.count), to: &bytes)
      bytes.append(contentsOf: envelope)
    }
    /// Whoever had the seat has gone.
    public mutating func appendGone(_ seat: UInt32) { append([], from: seat) }
  }
}

/// Which workers behind a relay a message of the coordinator's is for: the first part of everything that it sends to a
/// relay. Four bytes for each, little-endian.
public struct SeatList: Hashable, Sendable {
  public var seats: [UInt32]
  public init(_ seats: [UInt32]) { self.seats = seats }

  /// - Throws: ``WireError``; never traps, whatever the bytes are.
  public init(reading bytes: [UInt8]) throws(WireError) {
    guard !bytes.isEmpty, bytes.count.isMultiple(of: 4) else {
      throw .malformed(what: "a list of seats", reason: "it has \(bytes.count) bytes")
    }
    try WireLimits.count(bytes.count / 4, "seats", atMost: Bundle.entriesLimit)
    seats = stride(from: 0, to: bytes.count, by: 4).map { Self.number(bytes, $0) }
  }
  public var bytes: [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(4 * seats.count)
    for seat in seats { Self.append(seat, to: &bytes) }
    return bytes
  }

  static func number(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
    (0..<4).reversed().reduce(0) { $0 << 8 | UInt32(bytes[offset + $1]) }
  }
  static func append(_ number: UInt32, to bytes: inout [UInt8]) {
    for shift in stride(from: 0, to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: number >> shift)) }
  }
}
