/// Makes the checksums of HDF5 metadata right again, so that changes reach the code behind them.
///
/// The superblock of version 2 and 3 and the first chunk of object headers of version 2 end in Jenkins' lookup3 of
/// what precedes it (HDF5 File Format Specification, sections II and IV.A.1.b). Files of older versions have none.
enum HDF5Seal {
  static let signatures = [
    "\u{89}HDF\r\n\u{1A}\n", "OHDR", "OCHK", "FRHP", "FHDB", "FHIB", "BTHD", "BTIN", "BTLF", "TREE", "SNOD", "HEAP",
    "GCOL",
    "FSHD", "FSSE", "SMTB", "SMLI", "/etc/passwd", "parameters", "\0\0\0\0\0\0\0\0", "\u{8}\0",
  ]

  static func seal(_ file: inout [UInt8]) {
    guard file.count >= 48 else { return }
    if file.starts(with: [0x89, 0x48, 0x44, 0x46]), file[8] == 2 || file[8] == 3 { put(&file, 0, 44) }
    var at = 0
    while at + 16 < file.count {
      guard file[at] == 0x4F, file[at + 1] == 0x48, file[at + 2] == 0x44, file[at + 3] == 0x52 else {
        at += 1
        continue
      }
      // Signature, version, flags; times; phase change; the size of the chunk in 1, 2, 4 or 8 bytes.
      let flags = file[at + 5]
      var cursor = at + 6 + (flags & 0x20 != 0 ? 16 : 0) + (flags & 0x10 != 0 ? 4 : 0)
      let width = 1 << Int(flags & 3)
      guard cursor + width <= file.count else { return }
      var size: UInt64 = 0
      for i in (0..<width).reversed() { size = size << 8 | UInt64(file[cursor + i]) }
      cursor += width
      if size <= UInt64(file.count), cursor + Int(size) + 4 <= file.count { put(&file, at, cursor + Int(size)) }
      at += 4
    }
  }

  private static func put(_ file: inout [UInt8], _ start: Int, _ end: Int) {
    let sum = lookup3(file[start..<end])
    for i in 0..<4 { file[end + i] = UInt8(truncatingIfNeeded: sum >> UInt32(8 * i)) }
  }

  /// Bob Jenkins' hashlittle with 0 to begin with.
  static func lookup3(_ bytes: ArraySlice<UInt8>) -> UInt32 {
    var a = 0xdead_beef &+ UInt32(truncatingIfNeeded: bytes.count)
    var b = a
    var c = a
    func rotated(_ x: UInt32, _ k: UInt32) -> UInt32 { x << k | x >> (32 - k) }
    func word(_ at: Int) -> UInt32 {
      var value: UInt32 = 0
      for i in 0..<4 where at + i < bytes.endIndex { value |= UInt32(bytes[at + i]) << UInt32(8 * i) }
      return value
    }
    var at = bytes.startIndex
    while bytes.endIndex - at > 12 {
      a = a &+ word(at)
      b = b &+ word(at + 4)
      c = c &+ word(at + 8)
      a = (a &- c) ^ rotated(c, 4)
      c = c &+ b
      b = (b &- a) ^ rotated(a, 6)
      a = a &+ c
      c = (c &- b) ^ rotated(b, 8)
      b = b &+ a
      a = (a &- c) ^ rotated(c, 16)
      c = c &+ b
      b = (b &- a) ^ rotated(a, 19)
      a = a &+ c
      c = (c &- b) ^ rotated(b, 4)
      b = b &+ a
      at += 12
    }
    guard at < bytes.endIndex else { return c }
    a = a &+ word(at)
    b = b &+ word(at + 4)
    c = c &+ word(at + 8)
    c = (c ^ b) &- rotated(b, 14)
    a = (a ^ c) &- rotated(c, 11)
    b = (b ^ a) &- rotated(a, 25)
    c = (c ^ b) &- rotated(b, 16)
    a = (a ^ c) &- rotated(c, 4)
    b = (b ^ a) &- rotated(a, 14)
    c = (c ^ b) &- rotated(b, 24)
    return c
  }
}
