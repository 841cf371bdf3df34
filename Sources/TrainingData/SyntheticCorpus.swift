import Randomness

/// Sources made of nothing: pictures of random pixels with short captions, and text of random words. For
/// benchmarks, which need data of the right shape that can be made anywhere.
package struct SyntheticCorpus: Hashable, Sendable {
  /// Image-caption pairs of the training archive.
  package var images: Int
  /// Paragraphs of the training text.
  package var paragraphs: Int
  /// Height and width of the pictures.
  package var imageSize: Int

  package static let imageFile = "images.tar"
  package static let textFile = "text.jsonl"

  package init(images: Int, paragraphs: Int, imageSize: Int) {
    self.images = images
    self.paragraphs = paragraphs
    self.imageSize = imageSize
  }

  /// Writes both files into a new directory.
  package func write(to directory: String) throws(DataError) {
    try Folder.create(directory)
    var archive = try TarWriter(path: "\(directory)/\(Self.imageFile)")
    for number in 0..<images {
      let stream = CounterStream(seed: 1, purpose: .noise, stream: UInt64(number))
      let pixels = (0..<imageSize * imageSize * 3).map { UInt8(truncatingIfNeeded: stream.bits(UInt64($0))) }
      let picture = RGBImage(width: imageSize, height: imageSize, pixels: pixels)
      try archive.add(name: "\(number).png", try picture.encodedPNG())
      try archive.add(name: "\(number).txt", Array(words(12, from: stream, at: 1 << 32).utf8))
    }
    try archive.finish()
    var text = try FileWriter(path: "\(directory)/\(Self.textFile)")
    for number in 0..<paragraphs {
      let stream = CounterStream(seed: 2, purpose: .permutation, stream: UInt64(number))
      try text.append(JSONLine.record(text: words(200, from: stream, at: 0)))
    }
    _ = try text.finish()
  }

  /// Words of two or three syllables, so that a tokenizer finds pieces.
  private func words(_ count: Int, from stream: CounterStream, at first: UInt64) -> String {
    let (consonants, vowels) = (Array("bcdfghjklmnprstvwz"), Array("aeiou"))
    return (0..<count).map { index -> String in
      var bits = stream.bits(first + UInt64(index))
      func take(_ bound: Int) -> Int {
        defer { bits /= UInt32(bound) }
        return Int(bits % UInt32(bound))
      }
      return (0..<2 + take(2)).map { _ in "\(consonants[take(consonants.count)])\(vowels[take(vowels.count)])" }
        .joined()
    }.joined(separator: " ")
  }
}
