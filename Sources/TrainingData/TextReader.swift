import Foundation

/// One text of a source and the line (from 1) on which it starts.
package struct RawText: Sendable {
  package var line: Int
  package var text: String
}

/// Reads texts: one a line from JSON Lines (`.jsonl`, `.ndjson`; the field `text`), otherwise paragraphs between
/// blank lines.
package struct TextReader: ~Copyable {
  private var file: FileReader
  private let isJSONLines: Bool
  private var line = 0
  private let decoder = JSONDecoder()

  /// Longer lines and paragraphs are refused.
  static let mostTextBytes = 1 << 26

  package init(path: String) throws(DataError) {
    let opened = try FileReader(path: path)
    guard opened.sizeBytes > 0 else { throw .unusableSource(path: path, reason: "the file is empty") }
    file = opened
    let suffix = (path as NSString).pathExtension.lowercased()
    isJSONLines = suffix == "jsonl" || suffix == "ndjson"
  }

  var path: String { file.path }
  var offset: UInt64 { file.offset }
  var sizeBytes: UInt64 { file.sizeBytes }

  /// The next text that is not empty, or nil at the end.
  /// - Throws: an error that `concernsOneSample` leaves the reader behind the faulty line.
  package mutating func next() throws(DataError) -> RawText? {
    isJSONLines ? try nextRecord() : try nextParagraph()
  }

  private func invalid(_ line: Int, _ reason: String) -> DataError {
    .invalidLine(path: file.path, line: line, reason: reason)
  }

  private mutating func nextLine() throws(DataError) -> String? {
    guard let found = try file.line(mostBytes: Self.mostTextBytes) else { return nil }
    line += 1
    guard case .bytes(var bytes) = found else { throw invalid(line, "is longer than \(Self.mostTextBytes) bytes") }
    if line == 1 && bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes.removeFirst(3) }  // byte order mark
    guard let text = String(validating: bytes, as: UTF8.self) else { throw invalid(line, "is not UTF-8") }
    return text
  }

  private mutating func nextRecord() throws(DataError) -> RawText? {
    struct Record: Decodable { var text: String }
    while let text = try nextLine() {
      if text.allSatisfy(\.isWhitespace) { continue }
      let record: Record
      do {
        record = try decoder.decode(Record.self, from: Data(text.utf8))
      } catch DecodingError.keyNotFound {
        throw invalid(line, "has no field 'text'")
      } catch DecodingError.typeMismatch(_, let context) {
        throw invalid(line, context.codingPath.isEmpty ? "is not a JSON object" : "its 'text' is not a string")
      } catch DecodingError.valueNotFound {
        throw invalid(line, "its 'text' is null")
      } catch {
        throw invalid(line, "is not valid JSON")
      }
      if record.text.allSatisfy(\.isWhitespace) { continue }
      return RawText(line: line, text: record.text)
    }
    return nil
  }

  private mutating func nextParagraph() throws(DataError) -> RawText? {
    var paragraph = ""
    var first = 0
    while let text = try nextLine() {
      if text.allSatisfy(\.isWhitespace) {
        if paragraph.isEmpty { continue }
        break
      }
      if paragraph.isEmpty { first = line } else { paragraph += "\n" }
      paragraph += text
      guard paragraph.utf8.count <= Self.mostTextBytes else {
        throw invalid(first, "the paragraph is longer than \(Self.mostTextBytes) bytes")
      }
    }
    return paragraph.isEmpty ? nil : RawText(line: first, text: paragraph)
  }
}
