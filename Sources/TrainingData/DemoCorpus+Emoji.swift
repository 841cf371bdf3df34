import Foundation

extension DemoCorpus {
  /// An emoji of `emoji-test.txt`.
  struct Emoji: Hashable {
    var codePoints: [UInt32]
    /// "waving hand: light skin tone"
    var name: String

    /// What all styles of one emoji share: the name before ":".
    var base: String { String(name.prefix { $0 != ":" }) }
    /// What follows ":".
    var details: [String] {
      name.dropFirst(base.count + 1).split(separator: ",").map { $0.trimmingCharacters(in: .whitespaces) }
    }
    var skinTones: [String] { details.filter { $0.contains("skin tone") } }
    /// Details other than skin tones: "blond hair".
    var style: [String] { details.filter { !$0.contains("skin tone") } }
    var isFlag: Bool { base == "flag" }
    /// All styles and tones of one emoji fall on the same side, or validation would have seen them.
    var isValidation: Bool { !isFlag && DemoCorpus.hash(base).isMultiple(of: validationBaseInterval) }
  }

  /// The fully qualified emoji of a file in the format of `emoji-test.txt`.
  ///
  ///     1F44B 1F3FB ; fully-qualified # 👋🏻 E1.0 waving hand: light skin tone
  static func emoji(listedIn path: String) throws(DataError) -> [Emoji] {
    var reader = try FileReader(path: path)
    var found: [Emoji] = []
    var number = 0
    while let next = try reader.line(mostBytes: 1 << 16) {
      number += 1
      guard case .bytes(let bytes) = next, let line = String(validating: bytes, as: UTF8.self) else {
        throw .invalidLine(path: path, line: number, reason: "is not a line of emoji-test.txt")
      }
      guard !line.hasPrefix("#"), let semicolon = line.firstIndex(of: ";"),
        let hash = line[semicolon...].firstIndex(of: "#"),
        line[semicolon..<hash].dropFirst().trimmingCharacters(in: .whitespaces) == "fully-qualified"
      else { continue }
      let codePoints = line[..<semicolon].split(separator: " ").compactMap { UInt32($0, radix: 16) }
      // The comment is the emoji, the version and the name.
      let comment = line[line.index(after: hash)...].split(separator: " ", maxSplits: 2)
      guard comment.count == 3, !codePoints.isEmpty else {
        throw .invalidLine(path: path, line: number, reason: "is not a line of emoji-test.txt")
      }
      found.append(Emoji(codePoints: codePoints, name: String(comment[2])))
    }
    guard !found.isEmpty else { throw .unusableSource(path: path, reason: "lists no fully-qualified emoji") }
    return found
  }

  /// At most the default and one skin tone of each style, and some of the flags: thousands of drawings differ in
  /// nothing else.
  static func selected(_ all: [Emoji]) -> [Emoji] {
    struct Style: Hashable {
      var base: String
      var style: [String]
    }
    var toned: [Style: Int] = [:]
    for one in all where !one.skinTones.isEmpty { toned[Style(base: one.base, style: one.style), default: 0] += 1 }
    var seen: [Style: Int] = [:]
    return all.filter { one in
      if one.isFlag { return hash(one.name).isMultiple(of: flagInterval) }
      if one.skinTones.isEmpty { return true }
      let style = Style(base: one.base, style: one.style)
      let number = seen[style, default: 0]
      seen[style] = number + 1
      // Which tone is kept differs from one emoji to the next.
      return number == Int(hash(one.base + one.style.joined()) % UInt64(toned[style]!))
    }
  }
}

/// Writes a POSIX tar archive whose bytes depend on names and contents alone.
struct TarWriter: ~Copyable {
  private var file: FileWriter

  init(path: String) throws(DataError) { file = try FileWriter(path: path) }

  /// - Parameter name: at most 100 bytes.
  mutating func add(name: String, _ content: [UInt8]) throws(DataError) {
    precondition(name.utf8.count <= 100, "a name fits the header")
    var header = [UInt8](repeating: 0, count: 512)
    func put(_ text: String, at offset: Int) { for (i, byte) in text.utf8.enumerated() { header[offset + i] = byte } }
    func octal(_ value: Int, digits: Int) -> String {
      let text = String(value, radix: 8)
      return String(repeating: "0", count: digits - text.count) + text
    }
    put(name, at: 0)
    put(octal(0o644, digits: 7), at: 100)
    put(octal(0, digits: 7), at: 108)
    put(octal(0, digits: 7), at: 116)
    put(octal(content.count, digits: 11), at: 124)
    put(octal(0, digits: 11), at: 136)
    put("0", at: 156)
    put("ustar", at: 257)
    put("00", at: 263)
    put(octal(Int(TarReader.checksum(header)), digits: 6), at: 148)
    header[155] = UInt8(ascii: " ")
    try file.append(header)
    try file.append(content)
    try file.append([UInt8](repeating: 0, count: (512 - content.count % 512) % 512))
  }

  mutating func finish() throws(DataError) {
    try file.append([UInt8](repeating: 0, count: 1024))
    _ = try file.finish()
  }
}
