/// Reads the regular files of a tar archive (POSIX ustar, pax and GNU long names) in order.
///
///     header   512 bytes: name 0..<100, size 124..<136 (octal or base 256), checksum 148..<156, type 156,
///              "ustar" 257..<262, prefix 345..<500
///     content  size bytes, padded to a multiple of 512
struct TarReader: ~Copyable {
  struct Member {
    var name: String
    var sizeBytes: UInt64
  }

  var path: String { file.path }
  var offset: UInt64 { file.offset }
  var sizeBytes: UInt64 { file.sizeBytes }
  private var file: FileReader
  /// Content and padding of the current member that has not been read.
  private var unread: UInt64 = 0
  private var padding: UInt64 = 0
  private var headerOffset: UInt64 = 0

  static let mostNameBytes: UInt64 = 1 << 16

  init(path: String) throws(DataError) {
    let opened = try FileReader(path: path)
    guard opened.sizeBytes > 0 else { throw .malformedArchive(path: path, offset: 0, reason: "the file is empty") }
    file = opened
  }

  private func malformed(_ reason: String) -> DataError {
    .malformedArchive(path: file.path, offset: headerOffset, reason: reason)
  }

  /// The next regular file, whose content `content()` reads; nil at the end of the archive.
  mutating func next() throws(DataError) -> Member? {
    var longName: String?
    while true {
      try skipContent()
      headerOffset = file.offset
      let header = try file.bytes(512)
      if header.isEmpty || header.allSatisfy({ $0 == 0 }) && header.count == 512 { return nil }
      guard header.count == 512 else { throw malformed("the archive is cut off in a header") }
      guard let stored = Self.number(header[148..<156]), stored == Self.checksum(header) else {
        throw malformed("the header's checksum is wrong")
      }
      guard let size = Self.number(header[124..<136]), size <= UInt64.max / 2 else {
        throw malformed("the header's size is not a number")
      }
      unread = size
      padding = (512 - size % 512) % 512
      switch header[156] {
      case UInt8(ascii: "x"):
        longName = try Self.paxPath(try metadata()) ?? longName
      case UInt8(ascii: "L"):
        longName = try name(Self.untilZero(try metadata()[...]))
      case UInt8(ascii: "0"), UInt8(ascii: "7"), 0:
        if let longName { return Member(name: longName, sizeBytes: size) }
        var bytes = Self.untilZero(header[0..<100])
        let prefix = Self.untilZero(header[345..<500])
        if header[257..<262].elementsEqual("ustar".utf8), header[262] == 0, !prefix.isEmpty {
          bytes = prefix + [UInt8(ascii: "/")] + bytes
        }
        return Member(name: try name(bytes), sizeBytes: size)
      default:  // directories, links, devices, global pax headers: nothing that holds a sample
        longName = nil
      }
    }
  }

  /// The whole content of the current member.
  mutating func content() throws(DataError) -> [UInt8] {
    let bytes = try file.bytes(Int(unread))
    guard bytes.count == unread else { throw malformed("the archive is cut off inside a member") }
    unread = 0
    return bytes
  }

  private mutating func metadata() throws(DataError) -> [UInt8] {
    guard unread <= Self.mostNameBytes else { throw malformed("a name of \(unread) bytes is too long") }
    return try content()
  }

  private mutating func skipContent() throws(DataError) {
    guard try file.skip(unread) else { throw malformed("the archive is cut off inside a member") }
    // The last member's padding may be missing: readers of tar have always let that pass.
    if try !file.skip(padding) { _ = try file.skip(file.sizeBytes - file.offset) }
    unread = 0
    padding = 0
  }

  private func name(_ bytes: [UInt8]) throws(DataError) -> String {
    guard let name = String(validating: bytes, as: UTF8.self), !name.isEmpty else {
      throw malformed("a member's name is empty or not UTF-8")
    }
    return name
  }

  private static func untilZero(_ bytes: ArraySlice<UInt8>) -> [UInt8] { Array(bytes.prefix { $0 != 0 }) }

  /// Octal digits between blanks, or base 256 where the first bit is set.
  static func number(_ field: ArraySlice<UInt8>) -> UInt64? {
    guard let first = field.first else { return nil }
    if first & 0x80 != 0 {
      var value = UInt64(first & 0x7F)
      for byte in field.dropFirst() {
        guard value >> 56 == 0 else { return nil }
        value = value << 8 | UInt64(byte)
      }
      return value
    }
    var value: UInt64 = 0
    var digits = 0
    for byte in field {
      if byte == 0 || byte == UInt8(ascii: " ") {
        if digits > 0 { break }
        continue
      }
      guard (UInt8(ascii: "0")...UInt8(ascii: "7")).contains(byte) else { return nil }
      value = value << 3 | UInt64(byte - UInt8(ascii: "0"))
      digits += 1
    }
    return digits > 0 ? value : nil
  }

  static func checksum(_ header: [UInt8]) -> UInt64 {
    var sum: UInt64 = 0
    for (index, byte) in header.enumerated() {
      sum += UInt64((148..<156).contains(index) ? UInt8(ascii: " ") : byte)
    }
    return sum
  }

  /// The `path` of a pax header, whose records are "length key=value\n".
  static func paxPath(_ bytes: [UInt8]) throws(DataError) -> String? {
    var rest = bytes[...]
    var path: String?
    while let space = rest.firstIndex(of: UInt8(ascii: " ")) {
      guard let length = Int(String(decoding: rest[..<space], as: UTF8.self)), length > space - rest.startIndex + 1,
        length <= rest.count
      else { return path }
      let record = rest[(space + 1)..<(rest.startIndex + length - 1)]
      if record.starts(with: "path=".utf8) { path = String(validating: record.dropFirst(5), as: UTF8.self) }
      rest = rest.dropFirst(length)
    }
    return path
  }
}
