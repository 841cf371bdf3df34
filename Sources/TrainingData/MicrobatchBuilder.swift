import Randomness
import TransfusionModel

/// Lays samples out as the rows of a microbatch.
///
///     pair, caption first   BOS caption BOI patch... EOI EOS
///     pair, image first     BOS BOI patch... EOI caption EOS
///     text                  BOS text EOS        (no EOS where a long text is cut)
struct MicrobatchBuilder {
  private let dataset: TrainingDataset
  private let parts: MicrobatchParts
  private let patches: Int
  private let special: SpecialTokens
  private var result: Microbatch
  private var row = 0
  /// Position that the next element takes.
  private var at = 0
  private var rowEnd = 0
  /// Where the document that is being laid out begins, and whether its last element so far was discrete.
  private var documentStart = 0
  private var afterDiscrete = false
  /// The latents to read once all counts are known.
  private var images: [(documents: DocumentSet, document: UInt64, draw: SampleDraw, ordinal: Int)] = []
  private var scratch: [Int32]

  static let patchToken: Int32 = -1

  init(dataset: TrainingDataset, rows: Int, parts: MicrobatchParts) {
    self.dataset = dataset
    self.parts = parts
    patches = dataset.patchesPerImage
    special = dataset.special
    let positions = rows * dataset.sequenceLength
    scratch = [Int32](repeating: 0, count: dataset.sequenceLength)
    result = Microbatch(
      rows: rows, length: dataset.sequenceLength,
      tokens: [Int32](repeating: special.padding, count: positions),
      // Padding sees itself alone, so that no query is without a key.
      keyStart: (0..<Int32(positions)).map { $0 }, keyEnd: (1..<Int32(positions) + 1).map { $0 },
      targetPositions: [], targetTokens: [], patchPositions: [], clean: [], noise: [], timesteps: [])
    result.targetPositions.reserveCapacity(positions)
    result.targetTokens.reserveCapacity(positions)
  }

  /// Lays one sample out as the next row.
  mutating func append(_ sample: SampleIdentity, draw: SampleDraw) throws(DataError) {
    at = row * result.length
    row += 1
    rowEnd = row * result.length
    let documents = try dataset.documents(sample.source, sample.split)
    for (ordinal, segment) in try dataset.segments(sample.source, sample.split, sample.sequence).enumerated() {
      guard Int(segment.count) <= scratch.count else { throw overfull(sample) }
      let needed =
        Int(segment.count) + (sample.source == .images ? patches + SegmentCutter.pairFrame : segment.ends ? 2 : 1)
      guard at + needed <= rowEnd else { throw overfull(sample) }
      try copy(segment, from: documents)
      documentStart = at
      afterDiscrete = false
      discrete(special.bos)
      switch sample.source {
      case .text:
        text(Int(segment.count))
        if segment.ends { discrete(special.eos) }
      case .images:
        let decision = draw.decision(ordinal)
        let caption = decision.dropsCaption ? 0 : Int(segment.count)
        if decision.captionFirst { text(caption) }
        image(timestep: decision.timestep)
        if !decision.captionFirst { text(caption) }
        discrete(special.eos)
        images.append((documents, segment.document, draw, ordinal))
      }
    }
  }

  /// Reads latents and draws noise for the images that were laid out.
  mutating func finish() throws(DataError) -> Microbatch {
    precondition(row == result.rows, "a microbatch is finished when all its rows are laid out")
    let codec = dataset.description.codec
    let elements = codec.storedBytes
    if parts.contains(.clean) {
      var problem: DataError?
      result.clean = [Float](unsafeUninitializedCapacity: images.count * elements) { buffer, count in
        for (number, image) in images.enumerated() {
          do throws(DataError) {
            let output = UnsafeMutableBufferPointer(rebasing: buffer[number * elements..<(number + 1) * elements])
            codec.patches(
              stored: try image.documents.latent(image.document), patch: dataset.patch, draw: image.draw.latent,
              into: output)
          } catch {
            problem = error
            return
          }
          count = (number + 1) * elements
        }
      }
      if let problem { throw problem }
    }
    if parts.contains(.noise) {
      result.noise = [Float](unsafeUninitializedCapacity: images.count * elements) { buffer, count in
        for (number, image) in images.enumerated() {
          // Element `ordinal * elements + i` of the sample's stream, in the order of the cut patches.
          image.draw.noise.fillGaussian(
            UnsafeMutableBufferPointer(rebasing: buffer[number * elements..<(number + 1) * elements]),
            from: UInt64(image.ordinal * elements))
        }
        count = images.count * elements
      }
    }
    if !parts.contains(.tokens) { result.tokens = [] }
    return result
  }

  private func overfull(_ sample: SampleIdentity) -> DataError {
    .damaged(
      path: dataset.directory,
      reason: "\(sample.split.rawValue) \(sample.source.rawValue) sequence \(sample.sequence) does not fit its length")
  }

  private mutating func copy(_ segment: Segment, from documents: DocumentSet) throws(DataError) {
    var problem: DataError?
    scratch.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress else { return }
      do throws(DataError) { try documents.copy(segment, vocabulary: dataset.vocabulary, into: base) } catch {
        problem = error
      }
    }
    if let problem { throw problem }
  }

  /// One token. It is the target of the element before it when that is a token of the same document, too.
  @inline(__always) private mutating func discrete(_ token: Int32) {
    result.tokens[at] = token
    result.keyStart[at] = Int32(documentStart)
    result.keyEnd[at] = Int32(at + 1)
    if afterDiscrete && parts.contains(.targets) {
      result.targetPositions.append(Int32(at - 1))
      result.targetTokens.append(token)
    }
    afterDiscrete = true
    at += 1
  }

  private mutating func text(_ count: Int) {
    for i in 0..<count { discrete(scratch[i]) }
  }

  private mutating func image(timestep: Int32) {
    discrete(special.boi)
    let end = at + patches
    while at < end {
      result.tokens[at] = Self.patchToken
      result.keyStart[at] = Int32(documentStart)
      result.keyEnd[at] = Int32(end)
      result.patchPositions.append(Int32(at))
      at += 1
    }
    afterDiscrete = false
    discrete(special.eoi)
    result.timesteps.append(timestep)
  }
}
