import Foundation
import Testing
import TrainingData

/// A directory of its own for one test, removed with the object.
final class TemporaryFolder: Sendable {
  let path: String

  init() throws {
    path = NSTemporaryDirectory() + "transfusion-data-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { remove() }
  func remove() { try? FileManager.default.removeItem(atPath: path) }

  func write(_ name: String, _ bytes: [UInt8]) throws -> String {
    let file = path + "/" + name
    try Data(bytes).write(to: URL(fileURLWithPath: file))
    return file
  }
  func write(_ name: String, _ text: String) throws -> String { try write(name, Array(text.utf8)) }
}

/// Tar archives made by hand, so that they can be made wrong.
struct Tar {
  var bytes: [UInt8] = []

  static func header(name: String, size: Int, type: Character = "0") -> [UInt8] {
    var header = [UInt8](repeating: 0, count: 512)
    func put(_ text: String, at offset: Int) { for (i, byte) in text.utf8.enumerated() { header[offset + i] = byte } }
    put(name, at: 0)
    put("0000644\0", at: 100)
    put(String(repeating: "0", count: 11 - String(size, radix: 8).count) + String(size, radix: 8), at: 124)
    put(String(type), at: 156)
    put("ustar\0" + "00", at: 257)
    put("        ", at: 148)
    let sum = header.reduce(0) { $0 + Int($1) }
    put(String(repeating: "0", count: 6 - String(sum, radix: 8).count) + String(sum, radix: 8) + "\0 ", at: 148)
    return header
  }

  mutating func add(_ name: String, _ content: [UInt8], type: Character = "0") {
    bytes += Self.header(name: name, size: content.count, type: type) + content
    bytes += [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
  }
  mutating func add(_ name: String, _ content: String, type: Character = "0") {
    add(name, Array(content.utf8), type: type)
  }
  mutating func end() { bytes += [UInt8](repeating: 0, count: 1024) }
}

/// Small sources whose every number is known.
enum Corpus {
  static let imageSize = 8

  /// A picture in which every pixel says which picture it is of.
  static func picture(_ number: Int, size: Int = imageSize) -> RGBImage {
    RGBImage(
      width: size, height: size,
      pixels: (0..<size * size).flatMap { [UInt8(number), UInt8($0 % 256), UInt8(255 - number)] })
  }

  static func caption(_ number: Int) -> String {
    "picture \(number)" + String(repeating: " of many things", count: number % 3)
  }

  static let words = ["the", "rabbit", "ran", "over", "a", "green", "hill", "and", "saw", "another", "river", "stone"]

  static func sentence(_ number: Int) -> String {
    (0..<3 + number * 7 % 20).map { words[(number * 5 + $0 * ($0 + number)) % words.count] }.joined(separator: " ")
  }

  static func archive(_ numbers: Range<Int>) throws -> [UInt8] {
    var tar = Tar()
    for number in numbers {
      tar.add("set/\(number).png", try picture(number).encodedPNG())
      tar.add("set/\(number).txt", caption(number))
    }
    tar.end()
    return tar.bytes
  }

  static func lines(_ texts: [String]) -> String {
    texts.map { "{\"text\": \"\($0)\"}\n" }.joined()
  }

  /// A long text among short ones, so that some document is cut.
  static let trainTexts = (0..<150).map(sentence) + [(0..<40).map(sentence).joined(separator: " ")]

  static func settings(_ folder: TemporaryFolder, name: String = "documents") throws -> PreparationSettings {
    PreparationSettings(
      output: folder.path + "/" + name, images: [try folder.write("train.tar", try archive(0..<40))],
      text: [try folder.write("train.jsonl", lines(trainTexts))],
      validationImages: [try folder.write("validation.tar", try archive(100..<108))],
      validationText: [try folder.write("validation.jsonl", lines((200..<230).map(sentence)))],
      vocabulary: .trained(pieces: 320), imageSize: imageSize, sequenceLength: 64, patch: 2)
  }

  /// Prepared once for all tests that only read it: 8 x 8 pixels, patch 2, sequences of 64.
  static let prepared: Result<(TemporaryFolder, TrainingDataset), any Error> = Result {
    // What is kept as long as the process is removed with it.
    atexit { if case .success(let (folder, _)) = Corpus.prepared { folder.remove() } }
    let folder = try TemporaryFolder()
    let settings = try Corpus.settings(folder)
    _ = try Preparation.run(settings)
    return (folder, try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2))
  }

  static func dataset() throws -> TrainingDataset { try prepared.get().1 }
}

/// The error that `body` must throw.
func dataError(_ body: () throws -> Void) -> DataError? {
  do {
    try body()
    return nil
  } catch { return error as? DataError }
}
