import Randomness
import Testing
import TrainingData
import TransfusionModel

@Suite struct MicrobatchTests {
  static func source(_ change: (inout SamplingConfiguration) -> Void = { _ in }) throws -> MicrobatchSource {
    var sampling = SamplingConfiguration(seed: 11, microbatches: 3, sequencesPerMicrobatch: 4)
    change(&sampling)
    return try MicrobatchSource(dataset: try Corpus.dataset(), sampling: sampling)
  }

  /// The documents of one row as make_reference.py would describe them: per position its document (-1 padding)
  /// and image (-1 no patch), found from the tokens alone.
  static func reference(_ batch: Microbatch, row: Int, special: SpecialTokens) -> (document: [Int], image: [Int]) {
    var document: [Int] = []
    var image: [Int] = []
    var current = -1
    var images = -1
    var previous: Int32 = 0
    for token in batch.tokens[row * batch.length..<(row + 1) * batch.length] {
      if token == special.bos { current += 1 }
      if token == -1 && previous != -1 { images += 1 }
      let isPadding = token == special.padding
      document.append(isPadding ? -1 : current)
      image.append(token == -1 ? images : -1)
      previous = token
    }
    return (document, image)
  }

  @Test(arguments: [0, 3, 17] as [UInt64]) func layoutFollowsTheReference(step: UInt64) throws {
    let source = try Self.source()
    let special = source.dataset.special
    for index in 0..<3 {
      let batch = try source.microbatch(step: step, index: index)
      #expect(batch.rows == 4 && batch.length == 64 && batch.tokens.count == 256)
      var positions: [Int32] = []
      var targets: [Int32] = []
      var patches: [Int32] = []
      for row in 0..<batch.rows {
        let (document, image) = Self.reference(batch, row: row, special: special)
        let base = row * batch.length
        for query in 0..<batch.length {
          let at = base + query
          if image[query] >= 0 { patches.append(Int32(at)) }
          // allowed = (causal | same image) & same document | itself
          for key in 0..<batch.length {
            let sameImage = image[query] >= 0 && image[query] == image[key]
            let allowed =
              query == key || document[query] >= 0 && document[query] == document[key] && (key <= query || sameImage)
            let inInterval = base + key >= batch.keyStart[at] && base + key < batch.keyEnd[at]
            #expect(allowed == inInterval, "query \(query) key \(key)")
          }
          // position i predicts token i + 1: both discrete, both of one document
          if query + 1 < batch.length, image[query] < 0, image[query + 1] < 0, document[query + 1] >= 0,
            document[query] == document[query + 1]
          {
            positions.append(Int32(at))
            targets.append(batch.tokens[at + 1])
          }
        }
      }
      #expect(batch.targetPositions == positions)
      #expect(batch.targetTokens == targets)
      #expect(batch.patchPositions == patches)
      #expect(!batch.targetTokens.contains(special.eoi))
      #expect(batch.images * source.dataset.patchesPerImage == patches.count)
      #expect(batch.clean.count == patches.count * 12 && batch.noise.count == patches.count * 12)
      #expect(batch.timesteps.allSatisfy { (0..<1000).contains($0) })
      #expect(batch.tokens.allSatisfy { $0 >= -1 && $0 < Int32(source.dataset.vocabulary) })
      let limits = source.limits
      #expect(batch.images <= limits.images && batch.rows == limits.rows && batch.length == limits.length)
    }
  }

  @Test func imagesAndCaptionsStayTogether() throws {
    let source = try Self.source { $0.captionDropout = 0 }
    let tokenizer = try source.dataset.loadTokenizer()
    let special = source.dataset.special
    let codec = source.dataset.description.codec
    var orders: Set<Bool> = []
    for step in 0..<6 as Range<UInt64> {
      let batch = try source.microbatch(step: step, index: 0)
      var image = 0
      for row in 0..<batch.rows {
        let tokens = batch.tokens[row * 64..<(row + 1) * 64].split(separator: special.bos)
        for document in tokens where document.contains(-1) {
          let text = Array(document.prefix { $0 != special.eos })
          let captionFirst = text.first != special.boi
          orders.insert(captionFirst)
          let caption = try tokenizer.decode(
            text.filter { $0 >= 0 && $0 != special.boi && $0 != special.eoi })
          // Channel 0 of every pixel is the number of the picture; patch 5's second row, second column is pixel 27.
          let first = image * 16 * 12
          let number = Int((Double(batch.clean[first]) * codec.deviation[0] + codec.mean[0]).rounded())
          #expect(caption == Corpus.caption(number))
          let element = first + 5 * 12 + 4 + 3
          #expect(Int((Double(batch.clean[element]) * codec.deviation[1] + codec.mean[1]).rounded()) == 27)
          image += 1
        }
      }
      #expect(image == batch.images)
    }
    #expect(orders == [true, false])
  }

  @Test(arguments: [0, 0.1, 0.5, 1]) func denominatorsAreTheCountsOfTheMicrobatches(dropout: Double) throws {
    let source = try Self.source { $0.captionDropout = dropout }
    for step in 0..<8 as Range<UInt64> {
      let batches = try (0..<3).map { try source.microbatch(step: step, index: $0) }
      let expected = Denominators(
        targetTokens: batches.reduce(0) { $0 + $1.targetPositions.count }, images: batches.reduce(0) { $0 + $1.images })
      #expect(try source.denominators(step: step) == expected)
    }
  }

  @Test func aSampleDependsOnItsPositionAlone() throws {
    // The same positions cut into microbatches of another size hold the same rows, noise and noise levels.
    let narrow = try Self.source()
    let wide = try Self.source {
      $0.microbatches = 1
      $0.sequencesPerMicrobatch = 12
    }
    let parts = try (0..<3).map { try narrow.microbatch(step: 2, index: $0) }
    let whole = try wide.microbatch(step: 2, index: 0)
    #expect(parts.flatMap(\.tokens) == whole.tokens)
    #expect(parts.flatMap(\.clean) == whole.clean)
    #expect(parts.flatMap(\.noise) == whole.noise)
    #expect(parts.flatMap(\.timesteps) == whole.timesteps)
    #expect(try narrow.microbatch(step: 2, index: 1) == parts[1])
    let other = try Self.source { $0.seed = 12 }
    #expect(try other.microbatch(step: 2, index: 1) != parts[1])
  }

  @Test func partsAreThoseOfTheWhole() throws {
    let source = try Self.source()
    let whole = try source.microbatch(step: 5, index: 1)
    let input = try source.microbatch(step: 5, index: 1, parts: .input)
    let output = try source.microbatch(step: 5, index: 1, parts: .output)
    #expect(input.tokens == whole.tokens && input.clean == whole.clean && input.targetTokens.isEmpty)
    #expect(output.tokens.isEmpty && output.clean.isEmpty)
    #expect(output.targetTokens == whole.targetTokens && output.noise == whole.noise)
    #expect(output.keyEnd == whole.keyEnd && output.timesteps == whole.timesteps)
  }

  @Test func decisionsHaveTheirShares() throws {
    // Pairs alone, many of them.
    let source = try Self.source {
      $0.mix = SourceMix(images: 1, text: 0)
      $0.sequencesPerMicrobatch = 64
      $0.limitNoiseImageFirst = true
    }
    let special = source.dataset.special
    var captionFirst = 0
    var dropped = 0
    var pairs = 0
    for step in 0..<4 as Range<UInt64> {
      for index in 0..<3 {
        let batch = try source.microbatch(step: step, index: index)
        var image = 0
        for row in 0..<batch.rows {
          for document in batch.tokens[row * 64..<(row + 1) * 64].split(separator: special.bos)
          where document.contains(-1) {
            let body = document.prefix { $0 != special.eos }
            pairs += 1
            let isDropped = body.count == 18
            if isDropped {
              dropped += 1
            } else if body.first != special.boi {
              captionFirst += 1
            } else {
              #expect(batch.timesteps[image] <= 500)
            }
            image += 1
          }
        }
      }
    }
    let kept = Double(pairs - dropped)
    #expect(abs(Double(dropped) / Double(pairs) - 0.1) < 0.03)
    #expect(abs(Double(captionFirst) / kept - 0.8) < 0.04)
  }

  @Test func noiseIsStandardNormal() throws {
    let source = try Self.source {
      $0.mix = SourceMix(images: 1, text: 0)
      $0.sequencesPerMicrobatch = 64
    }
    let noise = try source.microbatch(step: 0, index: 0, parts: .noise).noise.map(Double.init)
    let mean = noise.reduce(0, +) / Double(noise.count)
    let variance = noise.reduce(0) { $0 + $1 * $1 } / Double(noise.count)
    #expect(noise.count > 10_000 && abs(mean) < 0.03 && abs(variance - 1) < 0.05)
    // Two images of one sample have different noise.
    #expect(Set(noise.prefix(192)).isDisjoint(with: noise[192..<384]))
  }

  @Test func validationIsFixed() throws {
    let one = try Self.source()
    let other = try Self.source {
      $0.seed = 99
      $0.captionDropout = 1
      $0.captionFirst = 0
    }
    #expect(one.validationMicrobatchCount >= 1)
    for index in 0..<3 {
      let batch = try one.validationMicrobatch(index: index)
      #expect(try other.validationMicrobatch(index: index) == batch)
      // Every caption is kept and stands first: BOI never follows BOS.
      for (at, token) in batch.tokens.enumerated() where token == one.dataset.special.boi {
        #expect(batch.tokens[at - 1] != one.dataset.special.bos)
      }
    }
    let batches = try (0..<2).map { try one.validationMicrobatch(index: $0) }
    let expected = Denominators(
      targetTokens: batches.reduce(0) { $0 + $1.targetPositions.count }, images: batches.reduce(0) { $0 + $1.images })
    #expect(try one.validationDenominators(count: 2) == expected)
  }
}
