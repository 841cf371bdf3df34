import ArgumentParser
import Foundation
import TrainingData

extension DataCommand {
  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Prints what prepared data holds, and one of its sequences decoded.")

    @Argument(help: "A documents directory.") var directory: String
    @Option(help: "Elements of a packed sequence; needed where there are several indexes.") var sequenceLength: Int?
    @Option(help: "Height and width of a patch; needed where there are several indexes.") var patch: Int?
    @Option(help: "The sequence to show.") var sequence: UInt64 = 0
    @Option(help: "images or text; both unless told.") var source: DataSource?
    @Option(help: "train or validation.") var split: DataSplit = .train
    @Flag(help: "Read every file again and compare it with its recorded SHA-256.") var verify = false
    @Flag(help: "Draw images with coloured half blocks even where the output is no terminal.") var draw = false

    func run() throws {
      try DataCommand.reported { try show(progress: $0) }
    }

    private func show(progress: @escaping (PreparationProgress) -> Void) throws {
      let shape = try shape()
      let dataset = try TrainingDataset.open(
        directory: directory, sequenceLength: shape.sequenceLength, patch: shape.patch)
      if verify { try dataset.verify(progress: progress) }
      print(DataSummary.text(dataset))
      let tokenizer = try dataset.loadTokenizer()
      let drawing = draw || isatty(STDOUT_FILENO) == 1
      for source in source.map({ [$0] }) ?? DataSource.allCases where dataset.sequenceCount(source, split) > 0 {
        print("\n\(split.rawValue) \(source.rawValue), sequence \(sequence):")
        for document in try dataset.contents(source, split, sequence: sequence) {
          let pieces = document.tokens.map { tokenizer.piece($0) ?? "?\($0)" }.joined(separator: " ")
          let caption = try tokenizer.decode(document.tokens)
          let patches = "<boi> [\(dataset.patchesPerImage) patches of image \(document.document)] <eoi>"
          print(
            "  <s> \(pieces)" + (document.image == nil ? "" : " \(patches)") + (document.endsInside ? " ..." : " </s>"))
          print("    = \(document.startsInside ? "... " : "")\(caption)")
          if drawing, let image = document.image { print(HalfBlocks.text(image)) }
        }
      }
    }

    private func shape() throws -> PackedIndexDescription.Shape {
      _ = try DocumentsDescription.read(directory: directory)
      let all = PackedIndexDescription.shapes(in: directory)
      let fitting = all.filter { shape in
        (sequenceLength ?? shape.sequenceLength) == shape.sequenceLength && (patch ?? shape.patch) == shape.patch
      }
      if fitting.count == 1 { return fitting[0] }
      if fitting.isEmpty, let length = sequenceLength ?? all.first?.sequenceLength,
        let patch = patch ?? all.first?.patch
      {
        return PackedIndexDescription.Shape(sequenceLength: length, patch: patch)  // opening it names the remedy
      }
      let known = all.map(\.description).joined(separator: "; ")
      throw ValidationError("choose an index with --sequence-length and --patch: \(directory) has \(known)")
    }
  }
}

extension DataSource: ExpressibleByArgument {}
extension DataSplit: ExpressibleByArgument {}

/// The counts of a dataset as text.
enum DataSummary {
  static func text(_ dataset: TrainingDataset) -> String {
    let description = dataset.description
    var lines = [
      "data         \(dataset.directory)",
      "fingerprint  \(dataset.fingerprint)",
      "vocabulary   \(dataset.vocabulary) (bos \(dataset.special.bos), eos \(dataset.special.eos), "
        + "boi \(dataset.special.boi), eoi \(dataset.special.eoi), padding \(dataset.special.padding))",
      "images       \(dataset.channels) x \(dataset.latentSize) x \(dataset.latentSize), "
        + "\(dataset.patchesPerImage) patches of \(dataset.patch) x \(dataset.patch)",
      "sequences    \(dataset.sequenceLength) elements",
      "",
      row(["", "documents", "tokens", "sequences", "images", "targets", "padding", "cut", "skipped"]),
    ]
    for set in dataset.index.sets {
      guard let documents = description.documentSet(set.source, set.split) else { continue }
      let elements = set.sequences * UInt64(dataset.sequenceLength)
      let padding = String(format: "%.1f %%", 100 * Double(set.padding) / Double(max(1, elements)))
      lines.append(
        row([
          "\(set.split.rawValue) \(set.source.rawValue)", "\(documents.documents)", "\(documents.tokens)",
          "\(set.sequences)", "\(set.images)", "\(set.targets)", padding, "\(set.cutCaptions)", "\(documents.skipped)",
        ]))
    }
    return lines.joined(separator: "\n")
  }

  private static func row(_ cells: [String]) -> String {
    cells.enumerated().map { index, cell in
      let fill = String(repeating: " ", count: max(0, (index == 0 ? 18 : 11) - cell.count))
      return index == 0 ? cell + fill : fill + cell
    }.joined()
  }
}

/// A picture in 24-bit terminal colours: an upper half block shows two pixels, one above the other.
enum HalfBlocks {
  static func text(_ image: RGBImage) -> String {
    func colour(_ row: Int, _ column: Int) -> String {
      let at = (min(row, image.height - 1) * image.width + column) * 3
      return "\(image.pixels[at]);\(image.pixels[at + 1]);\(image.pixels[at + 2])"
    }
    return stride(from: 0, to: image.height, by: 2).map { row in
      let cells = (0..<image.width).map { "\u{1B}[38;2;\(colour(row, $0));48;2;\(colour(row + 1, $0))m\u{2580}" }
      return "    " + cells.joined() + "\u{1B}[0m"
    }.joined(separator: "\n")
  }
}
