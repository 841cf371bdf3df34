import Foundation
import Testing
import TrainingData

@Suite struct SourceTests {
  /// What preparing one archive of pairs says, or nil when it is accepted.
  static func preparing(_ tar: [UInt8], skipInvalid: Bool = false) throws -> (DataError?, DocumentsDescription?) {
    let folder = try TemporaryFolder()
    var settings = try Corpus.settings(folder)
    settings.images = [try folder.write("pairs.tar", tar)]
    settings.validationImages = []
    settings.validationText = []
    settings.skipInvalid = skipInvalid
    do throws(DataError) { return (nil, try Preparation.run(settings)) } catch { return (error, nil) }
  }

  static func preparing(text: [UInt8], name: String, skipInvalid: Bool = false) throws -> (
    DataError?, DocumentsDescription?
  ) {
    let folder = try TemporaryFolder()
    var settings = try Corpus.settings(folder)
    let good = settings.text
    settings.text = good + [try folder.write(name, text)]
    settings.images = []
    settings.validationImages = []
    settings.validationText = []
    settings.skipInvalid = skipInvalid
    do throws(DataError) { return (nil, try Preparation.run(settings)) } catch { return (error, nil) }
  }

  static func png(_ number: Int = 1) throws -> [UInt8] { try Corpus.picture(number).encodedPNG() }

  @Test func archivesOfManyKindsAreRead() throws {
    var tar = Tar()
    let long = String(repeating: "directory/", count: 20)
    tar.add("./", "", type: "5")
    tar.add("a/001.png", try Self.png(1))
    tar.add("a/001.cls", "7")
    tar.add("a/001.txt", "  a caption\n")
    tar.add("pax", "\(long.utf8.count + 18) path=\(long)002.jpeg\n", type: "x")
    tar.add("cut/name", jpeg)
    tar.add("././@LongLink", "\(long)002.json\0", type: "L")
    tar.add("cut/name", #"{"caption": "red and blue", "width": 16}"#)
    tar.add("b.x/003.PNG", try Self.png(3))
    tar.add("b.x/003.json", #"{"text": "from text"}"#)
    tar.end()
    let (error, description) = try Self.preparing(tar.bytes)
    #expect(error == nil)
    #expect(description?.documentSet(.images, .train)?.documents == 3)
  }

  @Test func brokenArchivesAreNamed() throws {
    let good = try Corpus.archive(0..<4)
    func message(_ bytes: [UInt8]) throws -> String { try Self.preparing(bytes).0?.description ?? "accepted" }
    #expect(try message([]).contains("the file is empty"))
    #expect(try message(Array("not a tar archive at all".utf8)).contains("cut off in a header"))
    #expect(try message([UInt8](repeating: 0x41, count: 2048)).contains("at byte 0: the header's checksum is wrong"))
    #expect(try message(Array(good.prefix(600))).contains("cut off"))
    #expect(try message(Array(good.prefix(1024 + 100))).contains("cut off in a header"))
    var wrong = good
    wrong[124] = UInt8(ascii: "9")
    #expect(try message(wrong).contains("checksum"))
    // A size that no file has.
    var huge = Tar()
    huge.bytes = Tar.header(name: "a.png", size: 0o77_777_777_777)
    #expect(try message(huge.bytes).contains("more than") || (try message(huge.bytes)).contains("cut off"))
    var endless = Tar()
    endless.add("x", [UInt8](repeating: 0x41, count: 70_000), type: "L")
    #expect(try message(endless.bytes).contains("too long"))
    var none = Tar()
    none.end()
    #expect(try message(none.bytes).contains("no usable sample"))
  }

  @Test func changedArchivesNeverCrash() throws {
    let folder = try TemporaryFolder()
    var settings = try Corpus.settings(folder)
    settings.vocabulary = .file(try Corpus.dataset().tokenizerPath)
    settings.text = []
    settings.validationImages = []
    settings.validationText = []
    settings.skipInvalid = true
    let good = try Corpus.archive(0..<3)
    for number in 0..<150 {
      var changed = good
      let at = number * 7919 % good.count
      changed[at] = changed[at] ^ UInt8(truncatingIfNeeded: number * 31 + 1)
      if number % 3 == 0 { changed.removeLast(number * 104_729 % good.count) }
      settings.images = [try folder.write("changed.tar", changed)]
      settings.output = folder.path + "/changed-\(number)"
      _ = try? Preparation.run(settings)
      #expect(!FileManager.default.fileExists(atPath: settings.output + ".partial"))
    }
  }

  @Test func invalidSamplesAreNamedOrSkipped() throws {
    let bad: [(String, [(String, [UInt8])])] = [
      ("no caption", [("7.png", try Self.png())]),
      ("no picture", [("7.txt", Array("alone".utf8))]),
      ("is not UTF-8", [("7.png", try Self.png()), ("7.txt", [0x61, 0xFF, 0x62])]),
      ("caption is empty", [("7.png", try Self.png()), ("7.txt", Array(" \n".utf8))]),
      ("is not a JSON object", [("7.png", try Self.png()), ("7.json", Array("[1, 2".utf8))]),
      ("no caption", [("7.png", try Self.png()), ("7.json", Array("{}".utf8))]),
      ("second picture", [("7.png", try Self.png()), ("7.jpg", jpeg), ("7.txt", Array("x".utf8))]),
      ("does not decode", [("7.png", Array(try Self.png().prefix(60))), ("7.txt", Array("x".utf8))]),
      ("neither PNG nor JPEG", [("7.png", Array("GIF89a".utf8)), ("7.txt", Array("x".utf8))]),
      ("it is empty", [("7.png", []), ("7.txt", Array("x".utf8))]),
    ]
    for (reason, members) in bad {
      var tar = Tar()
      tar.add("1.png", try Self.png())
      tar.add("1.txt", "one")
      for (name, content) in members { tar.add(name, content) }
      tar.add("9.png", try Self.png())
      tar.add("9.txt", "nine")
      tar.end()
      let message = try Self.preparing(tar.bytes).0?.description ?? "accepted"
      #expect(message.contains(reason) && message.contains("pairs.tar") && message.contains("'7"), "\(message)")
      let description = try #require(try Self.preparing(tar.bytes, skipInvalid: true).1)
      #expect(description.documentSet(.images, .train)?.documents == 2)
      #expect(description.documentSet(.images, .train)?.skipped == 1)
    }
  }

  @Test func invalidLinesAreNamedOrSkipped() throws {
    let bad: [(String, [UInt8])] = [
      ("no field 'text'", Array(#"{"body": "x"}"#.utf8)), ("'text' is not a string", Array(#"{"text": 3}"#.utf8)),
      ("'text' is null", Array(#"{"text": null}"#.utf8)), ("not valid JSON", Array(#"{"text": "x"#.utf8)),
      ("not a JSON object", Array(#"["text"]"#.utf8)), ("not UTF-8", [0x7B, 0xC3, 0x28, 0x7D]),
    ]
    for (reason, line) in bad {
      let file = Array("{\"text\": \"good\"}\r\n\n".utf8) + line + Array("\n{\"text\": \"last\"}".utf8)
      let message = try Self.preparing(text: file, name: "bad.jsonl").0?.description ?? "accepted"
      #expect(message.contains("bad.jsonl:3: ") && message.contains(reason), "\(message)")
      let description = try #require(try Self.preparing(text: file, name: "bad.jsonl", skipInvalid: true).1)
      #expect(description.documentSet(.text, .train)?.documents == 151 + 2)
      #expect(description.documentSet(.text, .train)?.skipped == 1)
    }
    #expect(try Self.preparing(text: [], name: "empty.jsonl").0?.description.contains("file is empty") == true)
  }

  @Test func paragraphsAreDocuments() throws {
    let text = "\u{FEFF}first line\r\nsecond line\r\n\r\n   \nanother\n\n\nlast without an end"
    let description = try Self.preparing(text: Array(text.utf8), name: "plain.txt").1
    #expect(description?.documentSet(.text, .train)?.documents == 151 + 3)
    let bad = Array("fine\n\nso far\n".utf8) + [0xFF, 0x0A]
    #expect(
      try Self.preparing(text: bad, name: "plain.txt").0?.description.contains("plain.txt:4: is not UTF-8") == true)
  }
}

/// A 16 x 8 JPEG: the left half red, the right half blue.
let jpeg = [UInt8](
  Data(
    base64Encoded: """
      /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoKCgoKBggL
      DAsKDAkKCgr/2wBDAQICAgICAgUDAwUKBwYHCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgr/wAAR
      CAAIABADAREAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAACP/EABQQAQAAAAAAAAAAAAAAAAAAAAD/xAAWAQEBAQAAAAAAAAAAAAAAAAAK
      CAn/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oADAMBAAIRAxEAPwAXpTb+CGVQNe//2Q==
      """, options: .ignoreUnknownCharacters)!)
