import Foundation

/// The quickstart's sources, made from three Debian packages: emoji drawings with their Unicode names
/// (`fonts-noto-color-emoji`, `unicode-data`) and WordNet's definitions (`wordnet-base`).
public struct DemoCorpus: Hashable, Sendable {
  /// How many samples each file got.
  public struct Counts: Hashable, Sendable {
    public var trainImages = 0
    public var validationImages = 0
    public var trainText = 0
    public var validationText = 0
  }

  public var fontPath: String
  public var namesPath: String
  public var wordNetDirectory: String

  public init(
    fontPath: String = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",
    namesPath: String = "/usr/share/unicode/emoji/emoji-test.txt", wordNetDirectory: String = "/usr/share/wordnet"
  ) {
    self.fontPath = fontPath
    self.namesPath = namesPath
    self.wordNetDirectory = wordNetDirectory
  }

  public static let trainImages = "emoji-train.tar"
  public static let validationImages = "emoji-validation.tar"
  public static let trainText = "wordnet-train.jsonl"
  public static let validationText = "wordnet-validation.jsonl"

  /// One base emoji in this many is kept for validation, with all its styles.
  static let validationBaseInterval: UInt64 = 16
  /// One definition in this many is kept for validation.
  static let validationTextInterval: UInt64 = 50
  /// One flag in this many is kept: there are hundreds, all alike.
  static let flagInterval: UInt64 = 4

  /// Writes the four files into a new directory.
  /// - Throws: `DataError.missingPackage` naming the package that is not installed.
  public func write(to directory: String, progress: (PreparationProgress) -> Void = { _ in }) throws(DataError)
    -> Counts
  {
    for (path, package) in [
      (fontPath, "fonts-noto-color-emoji"), (namesPath, "unicode-data"), (wordNetDirectory, "wordnet-base"),
    ] where !FileManager.default.fileExists(atPath: path) {
      throw .missingPackage(name: package, path: path)
    }
    let directory = Folder.plain(directory)
    guard !FileManager.default.fileExists(atPath: directory) else { throw .outputExists(path: directory) }
    let partial = directory + ".partial"
    try Folder.remove(partial)
    try Folder.create(partial)
    var counts = Counts()
    try writeEmoji(to: partial, counts: &counts, progress: progress)
    try writeWordNet(to: partial, counts: &counts, progress: progress)
    try Folder.rename(partial, to: directory)
    return counts
  }

  private func writeEmoji(to directory: String, counts: inout Counts, progress: (PreparationProgress) -> Void)
    throws(DataError)
  {
    let font = try EmojiFont(path: fontPath)
    let emoji = Self.selected(try Self.emoji(listedIn: namesPath))
    var train = try TarWriter(path: directory + "/" + Self.trainImages)
    var validation = try TarWriter(path: directory + "/" + Self.validationImages)
    for (number, one) in emoji.enumerated() {
      if number % 64 == 0 {
        progress(
          PreparationProgress(
            phase: "drawing emoji", unit: .documents, completed: UInt64(number), total: UInt64(emoji.count)))
      }
      guard let drawing = try font.drawing(codePoints: one.codePoints) else { continue }
      let key = "emoji-" + one.codePoints.map { String($0, radix: 16) }.joined(separator: "-")
      let png = try drawing.encodedPNG()
      if one.isValidation {
        try validation.add(name: key + ".png", png)
        try validation.add(name: key + ".txt", Array(one.name.utf8))
        counts.validationImages += 1
      } else {
        try train.add(name: key + ".png", png)
        try train.add(name: key + ".txt", Array(one.name.utf8))
        counts.trainImages += 1
      }
    }
    try train.finish()
    try validation.finish()
  }

  private func writeWordNet(to directory: String, counts: inout Counts, progress: (PreparationProgress) -> Void)
    throws(DataError)
  {
    var train = try FileWriter(path: directory + "/" + Self.trainText)
    var validation = try FileWriter(path: directory + "/" + Self.validationText)
    let files = ["data.adj", "data.adv", "data.noun", "data.verb"]
    var total: UInt64 = 0
    for file in files { total += try FileReader(path: wordNetDirectory + "/" + file).sizeBytes }
    var finished: UInt64 = 0
    for file in files {
      var reader = try FileReader(path: wordNetDirectory + "/" + file)
      var line = 0
      while let found = try reader.line(mostBytes: 1 << 20) {
        line += 1
        guard case .bytes(let record) = found else {
          throw .invalidLine(path: reader.path, line: line, reason: "is not a line of WordNet's database")
        }
        if line % 8192 == 0 {
          progress(
            PreparationProgress(
              phase: "reading WordNet", unit: .bytes, completed: finished + reader.offset, total: total))
        }
        guard let text = Self.definition(record) else { continue }
        let json = JSONLine.record(text: text)
        if Self.hash(text).isMultiple(of: Self.validationTextInterval) {
          try validation.append(json)
          counts.validationText += 1
        } else {
          try train.append(json)
          counts.trainText += 1
        }
      }
      finished += reader.sizeBytes
    }
    _ = try train.finish()
    _ = try validation.finish()
  }

  /// "rabbit, coney: any of various burrowing animals" from a line of `data.*`; nil for the licence's lines.
  ///
  ///     offset file type words(hex) { word id } pointers... | gloss
  static func definition(_ record: [UInt8]) -> String? {
    let blank = UInt8(ascii: " ")
    guard let first = record.first, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first),
      let bar = record.firstIndex(of: UInt8(ascii: "|"))
    else { return nil }
    let fields = record[..<bar].split(separator: blank)
    guard fields.count > 4, let count = Int(String(decoding: fields[3], as: UTF8.self), radix: 16), count > 0,
      fields.count >= 4 + 2 * count, let start = record[(bar + 1)...].firstIndex(where: { $0 != blank }),
      let end = record.lastIndex(where: { $0 != blank })
    else { return nil }
    var text: [UInt8] = []
    for number in 0..<count {
      if number > 0 { text += Array(", ".utf8) }
      // "(a)", "(p)" and "(ip)" after an adjective say where it may stand.
      let word = fields[4 + 2 * number].prefix { $0 != UInt8(ascii: "(") }
      text += word.map { $0 == UInt8(ascii: "_") ? blank : $0 }
    }
    text += Array(": ".utf8) + record[start...end]
    return String(validating: text, as: UTF8.self)
  }

  /// FNV-1a, well mixed: which split a name belongs to must not depend on the process.
  static func hash(_ text: String) -> UInt64 {
    var value: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in text.utf8 { value = (value ^ UInt64(byte)) &* 0x100_0000_01B3 }
    return TextSample.mix(value)
  }
}

enum JSONLine {
  /// `{"text":"..."}` and a line's end.
  static func record(text: String) -> [UInt8] {
    var line: [UInt8] = []
    line.reserveCapacity(text.utf8.count + 32)
    line += #"{"text":""#.utf8
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"): line += [UInt8(ascii: "\\"), byte]
      case 0..<0x20:
        let digits = String(byte, radix: 16)
        line += Array(("\\u" + String(repeating: "0", count: 4 - digits.count) + digits).utf8)
      default: line.append(byte)
      }
    }
    line += "\"}\n".utf8
    return line
  }
}
