/// The bounds that every message is held to before anything in it is used.
///
/// They are far above what a run of 7B parameters on thousands of workers sends, and far below what could
/// exhaust memory or overflow arithmetic of a receiver.
public enum WireLimits {
  /// One control message.
  public static let messageBytes = 4 << 20
  /// One data frame chunk, without its header.
  public static let chunkBytes = 1 << 20
  /// Texts that people read: reasons, host names, phases. Longer ones are cut when sending.
  public static let reasonBytes = 16 << 10
  public static let nameBytes = 512
  public static let configurationBytes = 1 << 20
  public static let statusBytes = 4_000_000
  public static let runBytes = 64
  public static let workers = 65_536
  public static let ranges = 65_536
  public static let losses = 65_536
  public static let tensors = 65_536
  public static let tensorRank = 8
  /// Spans of one trace report: with at most 40 bytes each far below ``messageBytes``.
  public static let spans = 65_536
  /// Copies of states in one worker's memory.
  public static let copies = 1_024
  public static let threads: UInt32 = 65_536
  /// Model units, leaves, microbatch and tensor indices.
  public static let index: UInt32 = 1 << 24
  /// Steps, tokens and images: exact in a Double, and `+ 1` never overflows.
  public static let step: UInt64 = 1 << 48
  /// Byte and element counts, progress counters, generations: fit an Int and leave room to add.
  public static let count: UInt64 = 1 << 60
}

extension WireLimits {
  static func text(_ value: String, _ field: String, atMost limit: Int = nameBytes) throws(WireError) -> String {
    guard value.utf8.count <= limit else {
      throw .tooLong(field: field, sizeBytes: value.utf8.count, limitBytes: limit)
    }
    return value
  }
  /// A name that will be printed on one line or passed to the system.
  static func name(_ value: String, _ field: String, atMost limit: Int = nameBytes) throws(WireError) -> String {
    guard !value.isEmpty else { throw .missing(field: field) }
    guard value.utf8.allSatisfy({ $0 >= 0x20 && $0 != 0x7F }) else {
      throw .outOfRange(field: field, value: "a text with control characters", allowed: "printable characters")
    }
    return try text(value, field, atMost: limit)
  }
  static func sha256(_ value: String, _ field: String) throws(WireError) -> String {
    guard value.utf8.count == 64, value.utf8.allSatisfy({ (48...57).contains($0) || (97...102).contains($0) }) else {
      throw .outOfRange(field: field, value: "another text", allowed: "64 lower-case hexadecimal digits")
    }
    return value
  }
  static func number<Number: FixedWidthInteger>(
    _ value: Number, _ field: String, atMost limit: Number
  ) throws(WireError) -> Number {
    guard value <= limit else { throw .outOfRange(field: field, value: "\(value)", allowed: "at most \(limit)") }
    return value
  }
  static func step(_ value: UInt64, _ field: String) throws(WireError) -> UInt64 {
    try number(value, field, atMost: step)
  }
  static func count(_ value: Int, _ field: String, atMost limit: Int) throws(WireError) {
    guard value <= limit else { throw .tooMany(field: field, count: value, limit: limit) }
  }
  /// A rate or a duration.
  static func measure(_ value: Double, _ field: String) throws(WireError) -> Double {
    guard value.isFinite && value >= 0 else {
      throw .outOfRange(field: field, value: "\(value)", allowed: "a finite number, not negative")
    }
    return value
  }
  /// A result of training: a run that diverges says so with a NaN or an infinity, which must arrive.
  static func trainingSum(_ value: Double, _ field: String) throws(WireError) -> Double {
    guard value.isNaN || value >= 0 else {
      throw .outOfRange(field: field, value: "\(value)", allowed: "not negative, or NaN")
    }
    return value
  }
  /// The longest prefix of whole characters within `limit` bytes.
  static func cut(_ text: String, toBytes limit: Int) -> String {
    guard text.utf8.count > limit else { return text }
    var kept = String()
    var size = 0
    for character in text {
      let bytes = character.utf8.count
      if size + bytes > limit { break }
      kept.append(character)
      size += bytes
    }
    return kept
  }
}
