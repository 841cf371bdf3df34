/// A document as it is stored.
struct EncodedDocument: Sendable {
  var tokens: [Int32]
  var latent: [UInt8]?
}

/// Writes the files of one source and split, one document after another.
final class DocumentSetWriter {
  let source: DataSource
  let split: DataSplit
  var skipped: UInt64 = 0
  private let tokenBytes: Int
  private var documents: UInt64 = 0
  private var tokens: UInt64 = 0
  private var tokenFile: FileWriter
  private var offsetFile: FileWriter
  private var latentFile: FileWriter?

  init(directory: String, source: DataSource, split: DataSplit, tokenBytes: Int) throws(DataError) {
    let name = "\(directory)/\(split.rawValue)-\(source.rawValue)"
    self.source = source
    self.split = split
    self.tokenBytes = tokenBytes
    tokenFile = try FileWriter(path: name + ".tokens")
    offsetFile = try FileWriter(path: name + ".offsets")
    latentFile = source == .images ? try FileWriter(path: name + ".latents") : nil
  }

  func append(_ document: EncodedDocument) throws(DataError) {
    try offsetFile.append(integer: tokens)
    try tokenFile.append(tokens: document.tokens, tokenBytes: tokenBytes)
    if let latent = document.latent { try latentFile?.append(latent) }
    documents += 1
    tokens += UInt64(document.tokens.count)
  }

  func finish() throws(DataError) -> DocumentsDescription.DocumentSet {
    try offsetFile.append(integer: tokens)
    return DocumentsDescription.DocumentSet(
      source: source, split: split, documents: documents, tokens: tokens, skipped: skipped,
      tokenFile: try tokenFile.finish(), offsetFile: try offsetFile.finish(), latentFile: try latentFile?.finish())
  }
}

/// Sums over the bytes of all training images, exact in integers.
struct PixelStatistics {
  private var count: UInt64 = 0
  private var sums = SIMD4<UInt64>()
  private var squares = SIMD4<UInt64>()

  /// - Parameter planes: [3, H, W] bytes.
  mutating func add(_ planes: [UInt8]) {
    let area = planes.count / 3
    count += UInt64(area)
    for channel in 0..<3 {
      var sum: UInt64 = 0
      var square: UInt64 = 0
      for value in planes[channel * area..<(channel + 1) * area] {
        sum += UInt64(value)
        square += UInt64(value) * UInt64(value)
      }
      sums[channel] += sum
      squares[channel] += square
    }
  }

  /// A codec that normalises to zero mean and unit variance; to -1 ... 1 where there was no image.
  func codec(latentSize: Int) -> PixelCodec {
    guard count > 0 else {
      return PixelCodec(latentSize: latentSize, mean: [127.5, 127.5, 127.5], deviation: [127.5, 127.5, 127.5])
    }
    let mean = (0..<3).map { Double(sums[$0]) / Double(count) }
    let deviation = (0..<3).map { channel in
      // Images of one colour have no variance: leave their scale alone.
      let variance = Double(squares[channel]) / Double(count) - mean[channel] * mean[channel]
      return variance > 1e-6 ? variance.squareRoot() : 1
    }
    return PixelCodec(latentSize: latentSize, mean: mean, deviation: deviation)
  }
}
