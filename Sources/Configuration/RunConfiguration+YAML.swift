import Foundation
import Yams

extension RunConfiguration {
  /// Reads a configuration file and applies `key.path=value` overrides.
  ///
  /// - Throws: ``ConfigurationError`` with file and line for unknown keys, wrong types and impossible values.
  public static func load(file: String, overrides: [String] = []) throws(ConfigurationError) -> RunConfiguration {
    let text: String
    do {
      text = try String(contentsOfFile: file, encoding: .utf8)
    } catch {
      let reason = FileManager.default.fileExists(atPath: file) ? "it is not readable UTF-8 text" : "no such file"
      throw .unreadable(file: file, reason: reason)
    }
    return try parse(text, file: file, overrides: overrides)
  }

  /// Parses YAML text; `file` is what errors call it.
  public static func parse(
    _ text: String, file: String, overrides: [String] = []
  ) throws(ConfigurationError) -> RunConfiguration {
    var configuration = RunConfiguration()
    let byKey = Dictionary(uniqueKeysWithValues: fields.map { ($0.key, $0) })
    for scalar in try scalars(of: text, file: file) {
      guard let field = byKey[scalar.key] else {
        throw .unknownKey(place: scalar.place, key: scalar.key, nearest: nearestKey(to: scalar.key))
      }
      try configuration.set(field, scalar.value, at: scalar.place)
    }
    for text in overrides {
      guard let equals = text.firstIndex(of: "=") else {
        throw .badOverride(text: text, reason: "expected key.path=value")
      }
      let key = String(text[..<equals]).trimmingCharacters(in: .whitespaces)
      let value = String(text[text.index(after: equals)...]).trimmingCharacters(in: .whitespaces)
      guard let field = byKey[key] else {
        throw .unknownKey(place: .override(text), key: key, nearest: nearestKey(to: key))
      }
      try configuration.set(field, value, at: .override(text))
    }
    try configuration.checkTogether(file: file)
    return configuration
  }

  private mutating func set(
    _ field: Field, _ value: String, at place: ConfigurationError.Place
  ) throws(ConfigurationError) {
    do throws(FieldFault) {
      try field.read(value, &self)
    } catch {
      switch error {
      case .type(let expected):
        throw .wrongType(
          place: place, key: field.key, expected: expected, found: value.isEmpty ? "empty" : "'\(value)'")
      case .range(let reason): throw .impossible(place: place, key: field.key, value: value, reason: reason)
      }
    }
  }

  /// What single keys cannot show to be impossible.
  private func checkTogether(file: String) throws(ConfigurationError) {
    func require(_ condition: Bool, _ keys: [String], _ reason: String) throws(ConfigurationError) {
      if !condition { throw .contradiction(file: file, keys: keys, reason: reason) }
    }
    try require(
      model.width % model.heads == 0, ["model.width", "model.heads"],
      "\(model.width) is not divisible by \(model.heads) heads")
    try require(
      model.headSize % 2 == 0, ["model.width", "model.heads"],
      "a head of \(model.headSize) elements cannot be rotated in pairs; it must be even")
    try require(
      model.heads % model.keyValueHeads == 0, ["model.heads", "model.key_value_heads"],
      "\(model.heads) is not divisible by \(model.keyValueHeads)")
    try require(
      model.latentSize % model.patch == 0, ["model.latent_size", "model.patch"],
      "\(model.latentSize) is not divisible by \(model.patch)")
    try require(model.timeChannels % 2 == 0, ["model.time_channels"], "\(model.timeChannels) is odd")
    try require(
      batch.microbatches % batch.leaves == 0, ["batch.microbatches", "batch.leaves"],
      "\(batch.microbatches) microbatches do not form \(batch.leaves) equal leaves")
    try require(
      data.imageShare == 0 || model.patchesPerImage + 4 <= data.sequenceLength,
      ["data.sequence_length", "model.patch"],
      "an image of \(model.patchesPerImage) patches with BOS, BOI, EOI and EOS does not fit in a sequence of "
        + "\(data.sequenceLength); use larger patches or longer sequences")
    try require(
      optimizer.finalLearningRate <= optimizer.peakLearningRate,
      ["optimizer.final_learning_rate", "optimizer.peak_learning_rate"], "the schedule would rise")
    try require(
      faults.lossSpikeWindow == 0 || faults.lossSpikeWindow >= Self.leastSpikeWindow, ["faults.loss_spike_window"],
      "\(faults.lossSpikeWindow) steps are too few to tell a spike from chance; use 0 or at least "
        + "\(Self.leastSpikeWindow)")
    if data.directory.isEmpty {
      throw .missing(
        file: file, key: "data.directory", explanation: "name the directory that `transfusion data prepare` wrote")
    }
  }

  /// A median deviation of fewer losses means little.
  private static let leastSpikeWindow = 8

  /// The file that would give exactly this configuration: every key, in order.
  public var yaml: String {
    var lines: [String] = []
    var section = ""
    for field in Self.fields {
      let parts = field.key.split(separator: ".")
      if parts[0] != section {
        section = String(parts[0])
        lines.append("\(section):")
      }
      lines.append("  \(parts[1]): \(field.write(self))")
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// Canonical text of the keys that define the result: a resumed run must have the same.
  public var identity: String {
    let defaults = RunConfiguration()
    return Self.fields.filter { field in
      field.definesResult && (field.isInIdentityAtDefault || field.write(self) != field.write(defaults))
    }.map { "\($0.key)=\($0.write(self))" }.joined(separator: "\n")
  }

  /// Keys in which two identities differ, with both values: "model.layers (8, was 4)".
  public static func differences(between new: String, and old: String) -> [String] {
    func table(_ text: String) -> [String: String] {
      var result: [String: String] = [:]
      for line in text.split(separator: "\n") {
        guard let equals = line.firstIndex(of: "=") else { continue }
        result[String(line[..<equals])] = String(line[line.index(after: equals)...])
      }
      return result
    }
    let (a, b) = (table(new), table(old))
    return Set(a.keys).union(b.keys).sorted().filter { a[$0] != b[$0] }.map {
      "\($0) (\(a[$0] ?? "absent"), was \(b[$0] ?? "absent"))"
    }
  }

  /// A Markdown table of all keys with type, default and meaning.
  public static var reference: String {
    let defaults = RunConfiguration()
    let rows = fields.map { field in
      "| `\(field.key)` | \(field.kind) | `\(field.write(defaults))` | \(field.definesResult ? "yes" : "no") | \(field.explanation) |"
    }
    return (["| key | type | default | defines the result | meaning |", "|---|---|---|---|---|"] + rows)
      .joined(separator: "\n") + "\n"
  }
}

extension RunConfiguration {
  private struct ScalarAt {
    var key: String
    var value: String
    var place: ConfigurationError.Place
  }

  /// All scalars of a two-level YAML document with their dotted keys and lines.
  private static func scalars(of text: String, file: String) throws(ConfigurationError) -> [ScalarAt] {
    try checkSize(text, file: file)
    let root: Node?
    do {
      root = try Yams.compose(yaml: text)
    } catch let error as YamlError {
      throw .malformed(place: place(of: error, file: file), reason: explanation(of: error))
    } catch {
      throw .malformed(place: .file(file), reason: "\(error)")
    }
    guard let root else { return [] }
    guard case .mapping(let sections) = root else {
      throw .malformed(
        place: .line(file: file, line: root.mark?.line ?? 1), reason: "expected sections such as 'model:'")
    }
    let sectionNames = Set(fields.map { $0.key.split(separator: ".")[0] })
    var result: [ScalarAt] = []
    for (sectionKey, section) in sections {
      let line = ConfigurationError.Place.line(file: file, line: sectionKey.mark?.line ?? 1)
      let name = sectionKey.string ?? "?"
      guard sectionNames.contains(Substring(name)) else {
        let nearest = nearest(to: name, among: sectionNames.map(String.init).sorted())
        throw .unknownKey(place: line, key: name, nearest: nearest)
      }
      guard case .mapping(let entries) = section else {
        if case .scalar(let scalar) = section, scalar.string.isEmpty { continue }
        throw .wrongType(place: line, key: name, expected: "a section of keys", found: "a single value")
      }
      for (entryKey, value) in entries {
        let key = "\(name).\(entryKey.string ?? "?")"
        let at = ConfigurationError.Place.line(file: file, line: entryKey.mark?.line ?? 1)
        guard case .scalar(let scalar) = value else {
          if !fields.contains(where: { $0.key == key }) {
            throw .unknownKey(place: at, key: key, nearest: nearestKey(to: key))
          }
          throw .wrongType(place: at, key: key, expected: "a single value", found: "a list or section")
        }
        result.append(ScalarAt(key: key, value: scalar.string, place: at))
      }
    }
    return result
  }

  /// Bytes of a configuration; ours have two thousand.
  static let textLimitBytes = 1 << 20
  /// The parser compares the keys of a mapping with all that aliases stand for in them: sixteen lines can stand for
  /// more than a computer ever compares. So few cannot, wherever they are.
  static let aliasLimit = 4

  /// Refuses texts that would keep the parser busy, before it sees them.
  private static func checkSize(_ text: String, file: String) throws(ConfigurationError) {
    guard text.utf8.count <= textLimitBytes else {
      throw .malformed(place: .file(file), reason: "\(text.utf8.count) bytes, more than \(textLimitBytes)")
    }
    // What could be an alias: a star before a name, and no name before the star.
    func isName(_ byte: UInt8) -> Bool {
      (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 95 || byte >= 0x80
    }
    var aliases = 0
    var previous: (UInt8, UInt8) = (0x20, 0x20)
    for byte in text.utf8 {
      if previous.1 == UInt8(ascii: "*") && byte > 0x20 && byte != UInt8(ascii: "*") && !isName(previous.0) {
        aliases += 1
      }
      previous = (previous.1, byte)
    }
    guard aliases <= aliasLimit else {
      throw .malformed(place: .file(file), reason: "more than \(aliasLimit) aliases ('*name'): no key needs one")
    }
  }

  private static func place(of error: YamlError, file: String) -> ConfigurationError.Place {
    switch error {
    case .scanner(_, _, let mark, _), .parser(_, _, let mark, _), .composer(_, _, let mark, _):
      .line(file: file, line: mark.line)
    default: .file(file)
    }
  }
  private static func explanation(of error: YamlError) -> String {
    switch error {
    case .scanner(_, let problem, _, _), .parser(_, let problem, _, _), .composer(_, let problem, _, _): problem
    case .duplicatedKeysInMapping(let duplicates, _):
      "the key '\(duplicates.first.map { "\($0)" } ?? "?")' stands twice"
    default: "\(error)"
    }
  }

  /// The valid key that a mistyped one most likely means.
  static func nearestKey(to key: String) -> String? {
    // A right name in the wrong section is likelier meant than a similar name in this one.
    let name = key.split(separator: ".").last.map(String.init) ?? key
    if let same = fields.first(where: { $0.key.hasSuffix("." + name) }) { return same.key }
    return nearest(to: key, among: fields.map(\.key))
  }

  private static func nearest(to word: String, among candidates: [String]) -> String? {
    let scored = candidates.map { ($0, editDistance(Array(word.utf8), Array($0.utf8))) }
    guard let best = scored.min(by: { $0.1 < $1.1 }), best.1 <= max(3, word.count / 3) else { return nil }
    return best.0
  }

  private static func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var row = Array(0...b.count)
    for i in 0..<a.count {
      var diagonal = row[0]
      row[0] = i + 1
      for j in 0..<b.count {
        let above = row[j + 1]
        row[j + 1] = min(above + 1, row[j] + 1, diagonal + (a[i] == b[j] ? 0 : 1))
        diagonal = above
      }
    }
    return row[b.count]
  }
}
