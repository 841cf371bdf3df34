import Foundation
import TrainingData

/// Training data: sources that people download, and the files that were prepared from them.
extension FuzzTarget {
  static let data = [archive, text, tokenizer, documents, index, packed]

  // MARK: Sources

  /// A tar archive made by hand.
  private struct Tar {
    var bytes: [UInt8] = []

    mutating func add(_ name: String, _ content: [UInt8], type: Character = "0") {
      var header = [UInt8](repeating: 0, count: 512)
      func put(_ text: String, _ at: Int) { header.replaceSubrange(at..<at + text.utf8.count, with: text.utf8) }
      func octal(_ value: Int, _ digits: Int) -> String {
        let text = String(value, radix: 8)
        return String(repeating: "0", count: max(0, digits - text.count)) + text
      }
      put(name, 0)
      put("0000644", 100)
      put(octal(content.count, 11), 124)
      put(String(type), 156)
      put("ustar\0" + "00", 257)
      bytes += Tar.sealed(header) + content + [UInt8](repeating: 0, count: (512 - content.count % 512) % 512)
    }

    static func sealed(_ header: [UInt8]) -> [UInt8] {
      var header = header
      header.replaceSubrange(148..<156, with: "        ".utf8)
      let sum = String(header.reduce(0) { $0 + Int($1) }, radix: 8)
      header.replaceSubrange(148..<148 + 8, with: (String(repeating: "0", count: 6 - sum.count) + sum + "\0 ").utf8)
      return header
    }

    /// Makes the checksums of all headers right that lie at multiples of 512 and look like some.
    static func seal(_ archive: inout [UInt8]) {
      for start in stride(from: 0, to: archive.count - 511, by: 512) {
        let header = Array(archive[start..<start + 512])
        guard header[257..<262].elementsEqual("ustar".utf8) else { continue }
        archive.replaceSubrange(start..<start + 512, with: sealed(header))
      }
    }
  }

  static func picture(_ number: Int, _ size: Int = 8) -> RGBImage {
    RGBImage(
      width: size, height: size,
      pixels: (0..<size * size).flatMap { [UInt8(truncatingIfNeeded: number * 20), UInt8($0 % 256), UInt8($0 % 7)] })
  }

  private static func pairs(_ numbers: Range<Int>) throws -> [UInt8] {
    var tar = Tar()
    for number in numbers {
      tar.add("set/\(number).png", try picture(number).encodedPNG())
      if number % 2 == 0 {
        tar.add("set/\(number).txt", Array("picture \(number)".utf8))
      } else {
        tar.add("set/\(number).json", Array("{\"caption\": \"picture \(number)\", \"other\": 1}".utf8))
      }
    }
    tar.bytes += [UInt8](repeating: 0, count: 1024)
    return tar.bytes
  }

  private static func unusual() throws -> [UInt8] {
    var tar = Tar()
    tar.add("pax", Array("20 path=set/long.png\n".utf8), type: "x")
    tar.add("short", try picture(1).encodedPNG())
    tar.add("L", Array("set/long.txt\0".utf8), type: "L")
    tar.add("short", Array("caption".utf8))
    tar.add("folder", [], type: "5")
    tar.add("set/._a.png", [1, 2, 3])
    tar.add("set/b.txt", [0xFF, 0xFE])
    tar.add("set/b.cls", [0x31])
    return tar.bytes
  }

  private static let archive = FuzzTarget(
    "archive", "WebDatasetReader, tar archives with their checksums made right", shape: .bytes,
    dictionary: ["ustar", "path=", ".png", ".txt", ".json", "77777777777", "\u{0}", "{\"caption\":\"", "20 path="],
    heapLimitBytes: 16 << 20, share: 30,
    examples: { _ in [("pairs", try pairs(1..<4)), ("unusual", try unusual())] }
  ) { folder in
    let file = try InputFile(folder + "/input.tar")
    return { input in
      var input = input
      Tar.seal(&input)
      try file.put(input)
      return try outcome {
        var reader = try WebDatasetReader(path: file.path)
        var first: DataError?
        // Each takes a header at least.
        var samples = 0
        reading: while true {
          do throws(DataError) {
            if try reader.next() == nil { break reading }
          } catch {
            guard error.concernsOneSample else { throw error }
            first = first ?? error
          }
          samples += 1
          try promise(samples <= input.count / 512 + 1, "the archive does not end")
        }
        if let first { throw first }
      }
    }
  }

  private static let text = FuzzTarget(
    "text", "TextReader, JSON Lines and paragraphs", shape: .text,
    dictionary: ["{\"text\": \"", "\"}\n", "\\u0041", "\\ud83d\\ude00", "null"], heapLimitBytes: 32 << 20, share: 15,
    examples: { _ in
      let lines =
        "{\"text\": \"one\"}\n\n{\"text\": \"t\\u00e9w\\n o\", \"more\": [1, {}]}\r\n{\"text\": \"\"}\n{\"text\":\"end\"}"
      let paragraphs = "\u{FEFF}First line\nsecond line\n\n\n  \nThird ü 🙂\r\n\r\nlast"
      return [("lines", Array(lines.utf8)), ("paragraphs", Array(paragraphs.utf8))]
    }
  ) { folder in
    let files = [try InputFile(folder + "/input.jsonl"), try InputFile(folder + "/input.txt")]
    return { input in
      var result = FuzzOutcome.accepted
      for file in files {
        try file.put(input)
        result = try outcome {
          var reader = try TextReader(path: file.path)
          var first: DataError?
          var texts = 0
          reading: while true {
            do throws(DataError) {
              if try reader.next() == nil { break reading }
            } catch {
              guard error.concernsOneSample else { throw error }
              first = first ?? error
            }
            texts += 1
            try promise(texts <= input.count + 1, "the text does not end")
          }
          if let first { throw first }
        }
      }
      return result
    }
  }

  // MARK: Tokenizer

  private static let words = [
    "the", "rabbit", "ran", "over", "a", "green", "hill", "and", "saw", "another", "river", "stone",
  ]
  private static func sentence(_ number: Int) -> String {
    (0..<3 + number * 7 % 20).map { words[(number * 5 + $0 * ($0 + number)) % words.count] }.joined(separator: " ")
  }

  /// Documents of a few sequences, prepared as a user would: 8 x 8 pixels, patch 2, sequences of 64.
  private static func prepared(_ folder: String) throws -> String {
    func write(_ name: String, _ bytes: [UInt8]) throws -> String {
      let path = folder + "/" + name
      try Data(bytes).write(to: URL(filePath: path))
      return path
    }
    func lines(_ numbers: Range<Int>) -> [UInt8] {
      Array(numbers.map { "{\"text\": \"\(sentence($0))\"}\n" }.joined().utf8)
    }
    let output = folder + "/documents"
    _ = try Preparation.run(
      PreparationSettings(
        output: output, images: [try write("train.tar", try pairs(1..<6))],
        text: [try write("train.jsonl", lines(0..<12))],
        validationImages: [try write("validation.tar", try pairs(6..<8))],
        validationText: [try write("validation.jsonl", lines(12..<16))], vocabulary: .trained(pieces: 300),
        imageSize: 8,
        sequenceLength: 64, patch: 2))
    return output
  }

  private static let tokenizer = FuzzTarget(
    "tokenizer", "Tokenizer(model:), a SentencePiece model, then encoding and decoding with it", shape: .protobuf,
    dictionary: ["<boi>", "<eoi>", "<s>", "</s>", "<unk>", "<0x0A>", "▁", "<0x00>"], heapLimitBytes: 64 << 20,
    share: 10,
    examples: { folder in
      let model = [UInt8](try Data(contentsOf: URL(filePath: try prepared(folder) + "/tokenizer.model")))
      return [("trained", model)]
    }
  ) { _ in
    return { input in
      try outcome {
        let tokenizer = try Tokenizer(model: input, name: "input")
        var problem: (any Error)?
        for text in ["", "the rabbit ran", "▁ \n é 🙂 \u{0} 0123", "<boi></s>"] {
          do {
            let tokens = try tokenizer.encode(text)
            try promise(
              tokens.allSatisfy { $0 >= 0 && Int($0) < tokenizer.vocabulary }, "a token outside the vocabulary")
            _ = try tokenizer.decode(tokens)
          } catch let error as BrokenPromise { throw error } catch { problem = error }
        }
        for id in [-1, 0, 5, Int32(clamping: tokenizer.vocabulary - 1), .max] { _ = tokenizer.piece(id) }
        if let problem { throw problem }
      }
    }
  }

  // MARK: Prepared documents

  private static let parts: [(DataSource, DataSplit)] = [
    (.images, .train), (.text, .train), (.images, .validation), (.text, .validation),
  ]

  /// Everything that a worker and `data show` ask of documents.
  private static func use(_ directory: String) throws {
    let dataset = try TrainingDataset.open(directory: directory, sequenceLength: 64, patch: 2)
    _ = (dataset.vocabulary, dataset.patchesPerImage, dataset.mostImagesPerSequence, dataset.fingerprint)
    var problem: (any Error)?
    func attempt(_ body: () throws -> Void) throws {
      do { try body() } catch let error as BrokenPromise { throw error } catch { problem = problem ?? error }
    }
    for (source, split) in parts {
      let count = dataset.sequenceCount(source, split)
      for sequence in 0..<min(count, 4) {
        try attempt { _ = try dataset.contents(source, split, sequence: sequence) }
      }
    }
    try attempt {
      let sampling = SamplingConfiguration(seed: 1, microbatches: 2, sequencesPerMicrobatch: 2)
      let source = try MicrobatchSource(dataset: dataset, sampling: sampling)
      _ = (source.limits, source.samplesPerStep, source.tokensPerStep, source.validationMicrobatchCount)
      try attempt { _ = try source.denominators(step: 1) }
      try attempt { _ = try source.microbatch(step: 1, index: 1) }
      try attempt { _ = try source.validationMicrobatch(index: 0) }
    }
    if let problem { throw problem }
  }

  private static let folderName = "index-length64-patch2"

  private static func json(_ value: some Encodable) throws -> [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return [UInt8](try encoder.encode(value))
  }
  private static func bytes(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: path))) }

  private static let documents = FuzzTarget(
    "documents", "meta.json of prepared documents with its fingerprint made right", shape: .text,
    dictionary: ["\"vocabulary\"", "\"tokenBytes\"", "\"latentSize\"", "null", "../x", "1.5", "images", "text"],
    heapLimitBytes: 32 << 20, share: 6,
    examples: { folder in [("meta", try bytes(try prepared(folder) + "/meta.json"))] }
  ) { folder in
    let directory = try prepared(folder)
    let indexPath = "\(directory)/\(folderName)/index.json"
    let base = try JSONDecoder().decode(PackedIndexDescription.self, from: Data(try bytes(indexPath)))
    let meta = try InputFile(directory + "/meta.json")
    let indexFile = try InputFile(indexPath)
    return { input in
      try meta.put(input)
      try indexFile.put(try json(base))
      let first = try outcome { try use(directory) }
      guard var description = try? JSONDecoder().decode(DocumentsDescription.self, from: Data(input)) else {
        return first
      }
      description.fingerprint = description.computedFingerprint()
      var index = base
      index.documentsFingerprint = description.fingerprint
      index.fingerprint = index.computedFingerprint()
      try meta.put(try json(description))
      try indexFile.put(try json(index))
      return try outcome { try use(directory) }
    }
  }

  private static let index = FuzzTarget(
    "index", "index.json of a packed index with its fingerprint made right", shape: .text,
    dictionary: ["\"sequences\"", "\"segments\"", "\"mostImages\"", "null", "../x", "18446744073709551615"],
    heapLimitBytes: 32 << 20, share: 6,
    examples: { folder in [("index", try bytes("\(try prepared(folder))/\(folderName)/index.json"))] }
  ) { folder in
    let directory = try prepared(folder)
    let file = try InputFile("\(directory)/\(folderName)/index.json")
    return { input in
      try file.put(input)
      let first = try outcome { try use(directory) }
      guard var index = try? JSONDecoder().decode(PackedIndexDescription.self, from: Data(input)) else { return first }
      index.fingerprint = index.computedFingerprint()
      try file.put(try json(index))
      return try outcome { try use(directory) }
    }
  }

  /// The binary files one after another; each keeps its size, which opening checks.
  private static let packed = FuzzTarget(
    "packed", "tokens, offsets, latents, sequences and segments of prepared documents", shape: .bytes,
    heapLimitBytes: 16 << 20, share: 6,
    examples: { folder in
      [("files", try binaryFiles(of: try prepared(folder)).flatMap { try bytes($0) })]
    }
  ) { folder in
    let directory = try prepared(folder)
    let paths = try binaryFiles(of: directory)
    let originals = try paths.map { try bytes($0) }
    let files = try paths.map { try InputFile($0) }
    return { input in
      var rest = input[...]
      for (file, original) in zip(files, originals) {
        var content = Array(rest.prefix(original.count))
        rest = rest.dropFirst(original.count)
        content += original.dropFirst(content.count)
        try file.put(content)
      }
      return try outcome { try use(directory) }
    }
  }

  private static func binaryFiles(of directory: String) throws -> [String] {
    let manager = FileManager.default
    let own = try manager.contentsOfDirectory(atPath: directory).sorted().map { directory + "/" + $0 }
    let folder = directory + "/" + folderName
    let packed = try manager.contentsOfDirectory(atPath: folder).sorted().map { folder + "/" + $0 }
    return (packed + own).filter { path in
      var isFolder: ObjCBool = false
      return manager.fileExists(atPath: path, isDirectory: &isFolder) && !isFolder.boolValue
        && !path.hasSuffix(".json") && !path.hasSuffix(".model")
    }
  }
}
