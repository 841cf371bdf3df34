import Foundation
import Testing
import TrainingData

@Suite struct TokenizerTests {
  static func trained(_ pieces: Int = 320) throws -> Tokenizer {
    var sample = TextSample(mostBytes: 1 << 20)
    for text in Corpus.trainTexts { sample.offer(text) }
    return try Tokenizer.train(vocabulary: pieces, on: sample)
  }

  @Test func textComesBackWhole() throws {
    let tokenizer = try Self.trained()
    #expect(tokenizer.vocabulary == 320)
    #expect(tokenizer.special == SpecialTokens(padding: 0, bos: 1, eos: 2, boi: 3, eoi: 4))
    for text in [
      "the rabbit ran", "  two  blanks ", "line\nbreak\ttab", "never seen: \u{1F407} \u{4E16}\u{754C} \u{E9}", "2024",
      "<s> <boi> </s>", "\u{0}zero", "",
    ] {
      #expect(try tokenizer.decode(try tokenizer.encode(text)) == text)
    }
    // No text can spell a special token.
    #expect(try tokenizer.encode("<boi><eoi><s></s>").allSatisfy { $0 > 4 })
    #expect(tokenizer.piece(3) == "<boi>" && tokenizer.piece(320) == nil && tokenizer.piece(-1) == nil)
    #expect(throws: DataError.self) { try tokenizer.decode([320]) }
    #expect(throws: DataError.self) { try tokenizer.decode([-1]) }
  }

  @Test func trainingIsDeterministic() throws {
    #expect(try Self.trained().model == (try Self.trained().model))
  }

  @Test func aSampleIsBoundedAndSpread() throws {
    var sample = TextSample(mostBytes: 5000)
    for number in 0..<2000 { sample.offer("sentence number \(number)") }
    let small = try? Tokenizer.train(vocabulary: 300, on: sample)
    #expect(small != nil)
    var none = TextSample(mostBytes: 10)
    none.offer("")
    #expect(throws: DataError.self) { try Tokenizer.train(vocabulary: 300, on: none) }
  }

  @Test func whatIsNoModelIsRefused() throws {
    for bytes in [[], Array("hello".utf8), [UInt8](repeating: 0xFF, count: 5000)] as [[UInt8]] {
      #expect(throws: DataError.self) { try Tokenizer(model: bytes, name: "bad") }
    }
    let model = try Self.trained().model
    for count in stride(from: 1, to: model.count, by: 97) {
      _ = try? Tokenizer(model: Array(model.prefix(count)), name: "cut")
    }
  }
}

@Suite struct DemoTests {
  static let isInstalled = [
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf", "/usr/share/unicode/emoji/emoji-test.txt",
  ]
  .allSatisfy { FileManager.default.fileExists(atPath: $0) }

  @Test(.enabled(if: isInstalled, "needs the packages fonts-noto-color-emoji and unicode-data"))
  func ligaturesAreDrawn() throws {
    let font = try EmojiFont(path: "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
    let wave = try #require(try font.drawing(codePoints: [0x1F44B]))
    let toned = try #require(try font.drawing(codePoints: [0x1F44B, 0x1F3FD]))
    let flag = try #require(try font.drawing(codePoints: [0x1F1F2, 0x1F1EA]))
    let heart = try #require(try font.drawing(codePoints: [0x2764, 0xFE0F]))
    #expect(wave.width == 136 && wave.height == 136)
    #expect(Set([wave, toned, flag, heart]).count == 4)
    #expect(try font.drawing(codePoints: [0x41, 0x42]) == nil && font.drawing(codePoints: []) == nil)
    #expect(throws: DataError.self) { _ = try EmojiFont(path: "/nowhere.ttf") }
    #expect(throws: DataError.self) { _ = try EmojiFont(path: "/usr/share/unicode/emoji/emoji-test.txt") }
  }

  @Test func aMissingPackageIsNamed() throws {
    let folder = try TemporaryFolder()
    let error = dataError { _ = try DemoCorpus(fontPath: "/nowhere.ttf").write(to: folder.path + "/demo") }
    #expect(error?.description.contains("apt-get install fonts-noto-color-emoji") == true)
  }
}
