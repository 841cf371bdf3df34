import Foundation
import Testing
import TrainingData

@Suite struct PreparationTests {
  @Test func everyDocumentIsPackedOnceAndWhole() throws {
    let dataset = try Corpus.dataset()
    let tokenizer = try dataset.loadTokenizer()
    var captions: [String] = []
    for sequence in 0..<dataset.sequenceCount(.images, .train) {
      for pair in try dataset.contents(.images, .train, sequence: sequence) {
        let caption = try tokenizer.decode(pair.tokens)
        captions.append(caption)
        let number = try #require(pair.image).pixels[0]
        #expect(caption == Corpus.caption(Int(number)) && pair.image == Corpus.picture(Int(number)))
      }
    }
    #expect(captions.sorted() == (0..<40).map(Corpus.caption).sorted())
    var pieces: [UInt64: [DocumentContents]] = [:]
    for sequence in 0..<dataset.sequenceCount(.text, .train) {
      for piece in try dataset.contents(.text, .train, sequence: sequence) {
        pieces[piece.document, default: []].append(piece)
      }
    }
    #expect(pieces.keys.sorted() == (0..<151).map { UInt64($0) })
    for (number, text) in Corpus.trainTexts.enumerated() {
      let found = try #require(pieces[UInt64(number)])
      if number < 150 {
        #expect(found.count == 1 && !found[0].startsInside && !found[0].endsInside)
        #expect(try tokenizer.decode(found[0].tokens) == text)
      } else {  // longer than a sequence: pieces that fill their sequences, the last with the end
        #expect(found.count > 2 && found.filter { !$0.endsInside }.count == 1)
        #expect(found.filter { !$0.startsInside }.count == 1)
        #expect(found.reduce(0) { $0 + $1.tokens.count } == (try tokenizer.encode(text)).count)
      }
    }
    let set = try #require(dataset.index.sequenceSet(.text, .train))
    #expect(Double(set.padding) < 0.1 * Double(set.sequences * 64))
  }

  @Test func preparingTwiceGivesTheSameBytes() throws {
    let folder = try TemporaryFolder()
    let settings = try Corpus.settings(folder)
    _ = try Preparation.run(settings)
    let second = try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2)
    #expect(try Corpus.dataset().fingerprint == second.fingerprint)
    #expect(try Corpus.dataset().description == second.description)
    #expect(dataError { _ = try Preparation.run(settings) } == .outputExists(path: settings.output))
    #expect(throws: Never.self) { try second.verify() }
  }

  @Test func theFingerprintNamesTheData() throws {
    let original = try Corpus.dataset()
    let folder = try TemporaryFolder()
    var settings = try Corpus.settings(folder)
    // One letter of one validation text.
    let texts = (200..<230).map(Corpus.sentence)
    settings.validationText = [
      try folder.write(
        "other.jsonl", Corpus.lines([texts[0].replacing("r", with: "s", maxReplacements: 1)] + texts[1...]))
    ]
    let changed = try Preparation.run(settings)
    #expect(changed.fingerprint != original.description.fingerprint)
    #expect(changed.tokenizerFile == original.description.tokenizerFile)
    // Another packing of the same documents is other data for a run, too.
    let repacked = try PackedIndexDescription.build(directory: settings.output, sequenceLength: 48, patch: 4)
    let dataset = try TrainingDataset.open(directory: settings.output, sequenceLength: 48, patch: 4)
    #expect(dataset.fingerprint == repacked.fingerprint && dataset.patchesPerImage == 4)
    #expect(
      try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2).fingerprint
        != dataset.fingerprint)
  }

  @Test func captionsAreCutToFitBesideTheirImage() throws {
    let folder = try TemporaryFolder()
    let settings = try Corpus.settings(folder)
    _ = try Preparation.run(settings)
    let index = try PackedIndexDescription.build(directory: settings.output, sequenceLength: 26, patch: 2)
    let set = try #require(index.sequenceSet(.images, .train))
    #expect(set.cutCaptions > 0 && set.sequences == 40 && set.mostImages == 1)
    let dataset = try TrainingDataset.open(directory: settings.output, sequenceLength: 26, patch: 2)
    let source = try MicrobatchSource(
      dataset: dataset,
      sampling: SamplingConfiguration(
        seed: 1, microbatches: 1, sequencesPerMicrobatch: 40, mix: SourceMix(images: 1, text: 0), captionDropout: 0))
    let batch = try source.microbatch(step: 0, index: 0)
    #expect(batch.images == 40 && UInt64(batch.targetPositions.count) == set.targets)
    #expect(batch.tokens.filter { $0 == dataset.special.eos }.count == 40)
  }

  @Test func aMissingIndexNamesItsCommand() throws {
    let dataset = try Corpus.dataset()
    let error = dataError {
      _ = try TrainingDataset.open(directory: dataset.directory, sequenceLength: 128, patch: 2)
    }
    let message = try #require(error?.description)
    #expect(message.contains("transfusion data index \(dataset.directory) --sequence-length 128 --patch 2"))
    #expect(message.contains("length 64 patch 2"))
    let folder = try TemporaryFolder()
    #expect(
      dataError { _ = try TrainingDataset.open(directory: folder.path, sequenceLength: 64, patch: 2) }
        == .notPrepared(directory: folder.path))
  }

  @Test func impossibleSettingsAreRefused() throws {
    let folder = try TemporaryFolder()
    let good = try Corpus.settings(folder)
    func refused(_ change: (inout PreparationSettings) -> Void) -> String {
      var settings = good
      change(&settings)
      return dataError { _ = try Preparation.run(settings) }?.description ?? "accepted"
    }
    #expect(refused { $0.patch = 3 }.contains("does not divide"))
    #expect(refused { $0.patch = 0 }.contains("--patch"))
    #expect(refused { $0.sequenceLength = 20 }.contains("at least 21"))
    #expect(refused { $0.vocabulary = .trained(pieces: 100_000) }.contains("--vocabulary 100000"))
    #expect(refused { $0.vocabulary = .trained(pieces: 10) }.contains("between 300"))
    #expect(refused { $0.vocabulary = .file(good.text[0]) }.contains("not a SentencePiece model"))
    #expect(refused { $0.images = ["/nowhere.tar"] }.contains("No such file"))
    #expect(
      refused {
        $0.images = []
        $0.text = []
      }.contains("at least one training source"))
    #expect(!FileManager.default.fileExists(atPath: good.output))
  }

  @Test func damageIsFoundWhenOpening() throws {
    let folder = try TemporaryFolder()
    let settings = try Corpus.settings(folder)
    _ = try Preparation.run(settings)
    func open() -> DataError? {
      dataError { _ = try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2) }
    }
    #expect(open() == nil)
    let tokens = URL(fileURLWithPath: settings.output + "/train-text.tokens")
    let whole = try Data(contentsOf: tokens)
    try whole.dropLast(2).write(to: tokens)
    #expect(open()?.description.contains("train-text.tokens is damaged") == true)
    // A token outside the vocabulary is found when it is used, and by `verify` in any case.
    var wrong = whole
    wrong.replaceSubrange(0..<wrong.count, with: [UInt8](repeating: 0xFF, count: wrong.count))
    try wrong.write(to: tokens)
    let dataset = try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2)
    let source = try MicrobatchSource(
      dataset: dataset, sampling: SamplingConfiguration(seed: 1, microbatches: 1, sequencesPerMicrobatch: 2))
    #expect(
      dataError { _ = try source.microbatch(step: 0, index: 0) }?.description.contains("outside the vocabulary") == true
    )
    #expect(dataError { try dataset.verify() }?.description.contains("SHA-256") == true)
    try whole.write(to: tokens)
    // Offsets and segments that lie.
    for name in [
      "train-text.offsets", "index-length64-patch2/train-text.segments", "index-length64-patch2/train-text.sequences",
    ] {
      let file = URL(fileURLWithPath: settings.output + "/" + name)
      let kept = try Data(contentsOf: file)
      try Data(repeating: 0xFF, count: kept.count).write(to: file)
      let damaged = try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2)
      let source = try MicrobatchSource(
        dataset: damaged, sampling: SamplingConfiguration(seed: 1, microbatches: 1, sequencesPerMicrobatch: 2))
      #expect(dataError { _ = try source.microbatch(step: 0, index: 0) } != nil, "\(name)")
      try kept.write(to: file)
    }
    let meta = settings.output + "/meta.json"
    let text = try String(contentsOfFile: meta, encoding: .utf8)
    try text.replacing("\"documents\" : 40", with: "\"documents\" : 41").write(
      toFile: meta, atomically: true, encoding: .utf8)
    #expect(open()?.description.contains("fingerprint") == true)
    try "{".write(toFile: meta, atomically: true, encoding: .utf8)
    #expect(open()?.description.contains("JSON") == true)
  }

  @Test func textAloneIsEnough() throws {
    let folder = try TemporaryFolder()
    var settings = try Corpus.settings(folder)
    settings.images = []
    settings.validationImages = []
    settings.validationText = []
    _ = try Preparation.run(settings)
    let dataset = try TrainingDataset.open(directory: settings.output, sequenceLength: 64, patch: 2)
    let error = dataError {
      _ = try MicrobatchSource(
        dataset: dataset, sampling: SamplingConfiguration(seed: 1, microbatches: 1, sequencesPerMicrobatch: 1))
    }
    #expect(error?.description.contains("--images") == true)
    let source = try MicrobatchSource(
      dataset: dataset,
      sampling: SamplingConfiguration(
        seed: 1, microbatches: 1, sequencesPerMicrobatch: 2, mix: SourceMix(images: 0, text: 1)))
    #expect(try source.microbatch(step: 0, index: 0).images == 0)
    #expect(source.validationMicrobatchCount == 0)
    #expect(
      dataError { _ = try source.validationMicrobatch(index: 0) }?.description.contains("--validation-text") == true)
  }
}
