import ArgumentParser
import Foundation
import TrainingData

/// `transfusion data`: sources to documents and packed indexes.
struct DataCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "data",
    abstract: "Prepares training data and looks at it.",
    subcommands: [Demo.self, Prepare.self, Index.self, Show.self])

  /// Runs `body` with progress on standard error, one line a phase.
  static func reported<Result>(_ body: (@escaping (PreparationProgress) -> Void) throws -> Result) throws -> Result {
    var phase = ""
    var line: ProgressLine?
    defer { line?.finish() }
    return try body { progress in
      if progress.phase != phase {
        line?.finish()
        phase = progress.phase
        line = ProgressLine(phase, unit: progress.unit == .bytes ? .bytes : .count("documents"))
      }
      line?.update(done: progress.completed, of: progress.total)
    }
  }

  struct Demo: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Writes a small real data set from Debian packages: captioned emoji and WordNet's definitions.",
      discussion: "Needs the packages fonts-noto-color-emoji, unicode-data and wordnet-base.")

    @Argument(help: "The directory to make.")
    var output: String

    func run() throws {
      let counts = try DataCommand.reported { try DemoCorpus().write(to: output, progress: $0) }
      print(
        """
        \(output)
          \(DemoCorpus.trainImages)        \(counts.trainImages) captioned images
          \(DemoCorpus.validationImages)   \(counts.validationImages)
          \(DemoCorpus.trainText)     \(counts.trainText) definitions
          \(DemoCorpus.validationText) \(counts.validationText)
        """)
    }
  }

  struct Prepare: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Turns WebDataset tars, JSON Lines and plain text into documents and a packed index.",
      discussion: """
        Images are archives of key.png or key.jpg beside key.txt (the caption) or key.json (its 'caption' or 'text'). \
        Text is .jsonl with a field 'text', or plain text whose paragraphs are separated by blank lines.
        """)

    @Option(help: "The documents directory to make.") var out: String
    @Option(parsing: .upToNextOption, help: "WebDataset archives of image-caption pairs.") var images: [String] = []
    @Option(parsing: .upToNextOption, help: "JSON Lines or plain text files.") var text: [String] = []
    @Option(parsing: .upToNextOption, help: "Archives kept for validation.") var validationImages: [String] = []
    @Option(parsing: .upToNextOption, help: "Texts kept for validation.") var validationText: [String] = []
    @Option(help: "A SentencePiece model to use; otherwise one is trained on the training text.")
    var tokenizer: String?
    @Option(help: "Pieces of the vocabulary that is trained.") var vocabulary: Int = 4096
    @Option(help: "Height and width of the stored pixels.") var imageSize: Int = 32
    @Option(help: "Elements of a packed sequence.") var sequenceLength: Int = 256
    @Option(help: "Height and width of a patch; divides the image size.") var patch: Int = 4
    @Flag(help: "Leave out invalid samples, counted, instead of stopping at the first.") var skipInvalid = false

    func run() throws {
      let settings = PreparationSettings(
        output: out, images: images, text: text, validationImages: validationImages, validationText: validationText,
        vocabulary: tokenizer.map { .file($0) } ?? .trained(pieces: vocabulary), imageSize: imageSize,
        sequenceLength: sequenceLength, patch: patch, skipInvalid: skipInvalid)
      let dataset = try DataCommand.reported { progress in
        _ = try Preparation.run(settings, progress: progress)
        return try TrainingDataset.open(directory: out, sequenceLength: sequenceLength, patch: patch)
      }
      print(DataSummary.text(dataset))
    }
  }

  struct Index: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Packs prepared documents for another sequence length or patch size.")

    @Argument(help: "A documents directory.") var directory: String
    @Option(help: "Elements of a packed sequence.") var sequenceLength: Int
    @Option(help: "Height and width of a patch.") var patch: Int

    func run() throws {
      let dataset = try DataCommand.reported { progress in
        _ = try PackedIndexDescription.build(
          directory: directory, sequenceLength: sequenceLength, patch: patch, progress: progress)
        return try TrainingDataset.open(directory: directory, sequenceLength: sequenceLength, patch: patch)
      }
      print(DataSummary.text(dataset))
    }
  }
}
