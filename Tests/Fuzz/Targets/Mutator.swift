/// What a target's inputs look like: which changes, besides those of plain bytes, lead past the first check.
public enum InputShape: Sendable {
  case bytes
  /// Numbers in digits, lines, brackets.
  case text
  /// Protobuf wire format: whole fields change, and lengths stay right.
  case protobuf
}

/// Makes inputs out of examples: flips, splices, cuts, repetitions, numbers at the edges, words of the format.
public struct Mutator {
  public let shape: InputShape
  public let dictionary: [[UInt8]]
  public let sizeLimit: Int
  /// Valid examples and whatever has shown something new since.
  private(set) var pool: [[UInt8]]
  private let exampleCount: Int
  /// What was new is kept up to here; then it replaces what was new before.
  private static let poolLimit = 2048

  public init(shape: InputShape, examples: [[UInt8]], dictionary: [String] = [], sizeLimit: Int) {
    self.shape = shape
    self.dictionary = dictionary.map { Array($0.utf8) }
    self.sizeLimit = sizeLimit
    pool = examples.isEmpty ? [[]] : examples
    exampleCount = pool.count
  }

  public mutating func keep(_ input: [UInt8], _ random: inout FuzzRandom) {
    guard input.count <= sizeLimit else { return }
    if pool.count < exampleCount + Self.poolLimit {
      pool.append(input)
    } else {
      pool[exampleCount + random.below(Self.poolLimit)] = input
    }
  }

  /// Fills `input` with the next one.
  public func make(_ input: inout [UInt8], _ random: inout FuzzRandom) {
    input.removeAll(keepingCapacity: true)
    // Examples keep their share, however much has been added to them.
    let from = random.oneIn(3) ? random.below(exampleCount) : random.below(pool.count)
    input.append(contentsOf: pool[from])
    var changes = 1
    while changes < 12 && random.oneIn(2) { changes += 1 }
    switch shape {
    case .protobuf where !random.oneIn(4):
      if var tree = ProtobufTree(input) {
        for _ in 0..<changes { tree.change(&random, dictionary: dictionary) }
        input = tree.encoded
        changes = random.oneIn(8) ? 1 : 0
      }
    case .text where !random.oneIn(4):
      for _ in 0..<changes { changeText(&input, &random) }
      changes = random.oneIn(4) ? 1 : 0
    default: break
    }
    for _ in 0..<changes { changeBytes(&input, &random) }
    if input.count > sizeLimit { input.removeLast(input.count - sizeLimit) }
  }

  // MARK: Bytes

  func changeBytes(_ input: inout [UInt8], _ random: inout FuzzRandom) {
    guard !input.isEmpty else {
      for _ in 0..<random.below(16) { input.append(random.byte()) }
      return
    }
    let at = random.below(input.count)
    switch random.below(16) {
    case 0, 1, 2: input[at] ^= 1 << UInt8(random.below(8))
    case 3: input[at] = random.byte()
    case 4: input[at] = random.pick([0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x0A, 0x2F])
    case 5, 6, 7: putNumber(&input, at, &random)
    case 8: input[at] = input[at] &+ UInt8(truncatingIfNeeded: random.below(9)) &- 4
    case 9: input.removeSubrange(at..<at + random.length(atMost: input.count - at))
    case 10:  // repeat a piece
      let piece = Array(input[at..<at + random.length(atMost: min(input.count - at, 256))])
      let times = random.length(atMost: random.oneIn(16) ? 256 : 4)
      guard input.count + piece.count * times <= sizeLimit else { return }
      input.insert(contentsOf: repeatElement(piece, count: times).joined(), at: random.below(input.count + 1))
    case 11:  // copy a piece over another place
      let count = random.length(atMost: input.count - at)
      let piece = Array(input[at..<at + count])
      let target = random.below(input.count - count + 1)
      input.replaceSubrange(target..<target + count, with: piece)
    case 12: input.removeLast(random.length(atMost: input.count))
    case 13:  // the rest of another input
      let other = pool[random.below(pool.count)]
      let cut = random.oneIn(2) ? min(at, other.count) : random.below(other.count + 1)
      input.removeLast(input.count - at)
      input.append(contentsOf: other[cut...])
    case 14:
      guard !dictionary.isEmpty else { return putNumber(&input, at, &random) }
      let word = random.pick(dictionary)
      if random.oneIn(2) {
        input.insert(contentsOf: word, at: at)
      } else {
        input.replaceSubrange(at..<min(at + word.count, input.count), with: word)
      }
    default:
      let fill = random.pick([0, 0xFF, 0x20, 0x41] as [UInt8])
      input.insert(contentsOf: repeatElement(fill, count: random.length(atMost: 512)), at: at)
    }
  }

  /// Overwrites a number of 1 to 8 bytes, in either order, often with the size of something.
  private func putNumber(_ input: inout [UInt8], _ at: Int, _ random: inout FuzzRandom) {
    let width = random.pick([1, 2, 4, 4, 8, 8])
    let at = random.oneIn(2) ? at & ~(width - 1) : at
    guard at + width <= input.count else { return }
    var value: UInt64 = 0
    for i in 0..<width { value |= UInt64(input[at + i]) << UInt64(8 * i) }
    switch random.below(4) {
    case 0: value = value &+ UInt64(random.below(17)) &- 8
    case 1: value = UInt64(input.count) &+ UInt64(random.below(9)) &- 4
    default: value = random.number()
    }
    let bigEndian = random.oneIn(4)
    for i in 0..<width {
      input[at + i] = UInt8(truncatingIfNeeded: value >> UInt64(8 * (bigEndian ? width - 1 - i : i)))
    }
  }

  // MARK: Text

  static let numbers = [
    "0", "-0", "-1", "1", "2", "255", "65536", "2147483648", "4294967295", "4294967296", "9007199254740993",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "18446744073709551615",
    "18446744073709551616", "1e308", "1e309", "-1e400", "1e-400", "0.5", "0x10", "1_000", "01", "+1", "nan", ".inf",
    "NaN", "Infinity", "-Infinity", "1e19", "99999999999999999999999999999999999999", "true", "null", "~", "\"\"", "[]",
    "{}", "\"x\"",
  ].map { Array($0.utf8) }
  static let strings = [
    "", " ", "\\u0000", "\\ud800", "\u{FEFF}", "\u{202E}", "é", "🙂", "../", "/", "\\", "\"", "'", "\t", "\r\n", "\0",
    "%s%n",
    "&a ", "*a", "<<: ", "!!int ", "? ", "- ", "---\n", "...\n", "|\n", ">\n", ": ", ", ", "#", "@", "`", "%YAML 1.2\n",
  ].map { Array($0.utf8) }

  func changeText(_ input: inout [UInt8], _ random: inout FuzzRandom) {
    guard !input.isEmpty else { return changeBytes(&input, &random) }
    let at = random.below(input.count)
    switch random.below(12) {
    case 0, 1, 2: replaceNumber(&input, at, &random)
    case 3:
      input.insert(contentsOf: random.pick(dictionary.isEmpty || random.oneIn(2) ? Self.strings : dictionary), at: at)
    case 4, 5:  // a line goes, comes again, or moves
      let line = self.line(input, at)
      let text = Array(input[line])
      if !random.oneIn(3) { input.removeSubrange(line) }
      if !random.oneIn(3) {
        let start = input.isEmpty ? 0 : self.line(input, random.below(input.count)).lowerBound
        input.insert(contentsOf: text, at: start)
      }
    case 6:  // brackets in brackets
      let (open, close) = random.pick([("[", "]"), ("{", "}"), ("{\"a\":", "}"), ("[[", "]]"), ("- ", ""), ("? ", "")])
      let depth = random.length(atMost: random.oneIn(8) ? 20_000 : 64)
      guard input.count + depth * (open.utf8.count + close.utf8.count) <= sizeLimit else { return }
      let end = at + random.below(input.count - at + 1)
      input.insert(contentsOf: repeatElement(Array(close.utf8), count: depth).joined(), at: end)
      input.insert(contentsOf: repeatElement(Array(open.utf8), count: depth).joined(), at: at)
    case 7:  // a word for another word of the text
      let word = self.word(input, at)
      let other = Array(input[self.word(input, random.below(input.count))])
      input.replaceSubrange(word, with: other)
    case 8:
      let word = self.word(input, at)
      input.replaceSubrange(word, with: dictionary.isEmpty ? random.pick(Self.strings) : random.pick(dictionary))
    case 9:
      input.insert(
        contentsOf: repeatElement(random.pick([0x61, 0x39, 0x30, 0x20, 0x0A]), count: random.length(atMost: 4096)),
        at: at)
    default: changeBytes(&input, &random)
    }
  }

  private func isDigit(_ byte: UInt8) -> Bool { (48...57).contains(byte) }

  private func replaceNumber(_ input: inout [UInt8], _ at: Int, _ random: inout FuzzRandom) {
    // The next number from here on.
    guard let first = input[at...].firstIndex(where: isDigit) else { return changeBytes(&input, &random) }
    var start = first
    while start > 0, isDigit(input[start - 1]) || input[start - 1] == 0x2E || input[start - 1] == 0x2D { start -= 1 }
    let end = input[first...].firstIndex { !isDigit($0) && $0 != 0x2E } ?? input.count
    let text =
      random.oneIn(3)
      ? Array((random.oneIn(2) ? "-" : "").utf8) + Array(String(random.number()).utf8) : random.pick(Self.numbers)
    input.replaceSubrange(start..<end, with: text)
  }

  private func line(_ input: [UInt8], _ at: Int) -> Range<Int> {
    let start = input[..<at].lastIndex(of: 0x0A).map { $0 + 1 } ?? 0
    let end = input[at...].firstIndex(of: 0x0A).map { $0 + 1 } ?? input.count
    return start..<end
  }

  private func word(_ input: [UInt8], _ at: Int) -> Range<Int> {
    func isWord(_ byte: UInt8) -> Bool {
      isDigit(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 0x5F || byte == 0x2E
        || byte == 0x2D
    }
    let first = input[at...].firstIndex(where: isWord) ?? at
    var start = first
    while start > 0, isWord(input[start - 1]) { start -= 1 }
    return start..<(input[first...].firstIndex { !isWord($0) } ?? input.count)
  }
}
