import ArgumentParser
import Foundation
import FuzzTargets

/// Feeds decoders with seeded, changed examples, in processes of their own that may die.
@main struct Fuzz: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fuzz",
    abstract: "Feeds every decoder with changed examples and looks for crashes, hangs and blow-ups.")

  @Option(help: "Minutes for all targets together.") var minutes: Double?
  @Option(help: "Inputs for all targets together, shared out by how fast they are.") var inputs: Int?
  @Option(help: "Inputs for each target.") var each: Int?
  @Option(help: "The same seed makes the same inputs.") var seed: UInt64 = 1
  @Option(help: "The folder of the corpus.") var corpus = "Tests/Fuzz/Corpus"
  @Option(help: "Where inputs that failed are written.") var findings = ".build/fuzz-findings"
  @Option(help: "CPU seconds that one input may take.") var inputSeconds = 2.0
  @Option(help: "Findings of one target after which it is left.") var mostFindings = 10
  @Flag(help: "Run the corpus only.") var corpusOnly = false
  @Flag(help: "Write the valid examples into the corpus.") var writeExamples = false
  @Flag(help: "List the targets.") var list = false
  @Option(help: "Decode one file once, in this process; name its target.") var replay: String?
  @Argument(help: "Targets; all where none is named.") var targets: [String] = []

  /// Set in the processes that decode: "page,scratch,first,count".
  @Option(help: .hidden) var decode: String?

  func validate() throws {
    for name in targets where FuzzTarget.named(name) == nil {
      throw ValidationError("there is no target '\(name)'; see --list")
    }
    if replay != nil && targets.count != 1 { throw ValidationError("name the one target of the file") }
  }

  func run() throws {
    let chosen = FuzzTarget.all.filter { target in
      targets.isEmpty ? target.onlyNamed == nil || list || corpusOnly || writeExamples : targets.contains(target.name)
    }
    if list {
      for target in chosen {
        print("\(target.name)\n    \(target.what)" + (target.onlyNamed.map { "\n    only where named: \($0)" } ?? ""))
      }
    } else if let decode {
      try Decoding(arguments: decode, target: chosen[0], corpus: corpus, seed: seed, corpusOnly: corpusOnly).run()
    } else if let replay {
      try show(replay, chosen[0])
    } else if writeExamples {
      for target in chosen { try Corpus(corpus, target.name).write(target) }
    } else {
      var supervisor = Supervisor(
        corpus: corpus, findings: findings, seed: seed, inputSeconds: inputSeconds, mostFindings: mostFindings)
      let shares = chosen.reduce(0) { $0 + $1.share }
      for target in chosen {
        try supervisor.run(
          target, count: corpusOnly ? 0 : each ?? inputs.map { $0 * target.share / shares } ?? 10_000_000_000,
          seconds: inputs != nil || each != nil || corpusOnly ? nil : (minutes ?? 1) * 60 / Double(chosen.count))
      }
      supervisor.summarize()
      if supervisor.failed { throw ExitCode.failure }
    }
  }

  private func show(_ file: String, _ target: FuzzTarget) throws {
    let input = [UInt8](try Data(contentsOf: URL(filePath: file)))
    let scratch = try Scratch()
    defer { scratch.remove() }
    switch try target.prepare(scratch.path)(input) {
    case .accepted: print("accepted")
    case .refused(let error): print("refused: \(error)")
    }
  }
}

/// A folder in memory where the system has one.
struct Scratch {
  let path: String
  init() throws {
    let base = FileManager.default.isWritableFile(atPath: "/dev/shm") ? "/dev/shm" : NSTemporaryDirectory()
    path = base + "/transfusion-fuzz-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }
  func remove() { try? FileManager.default.removeItem(atPath: path) }
}

/// The committed inputs of a target: valid examples, and everything that once failed.
struct Corpus {
  let folder: String
  init(_ corpus: String, _ target: String) { folder = corpus + "/" + target }

  func read() throws -> [(name: String, bytes: [UInt8])] {
    let names = ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []).sorted()
    return try names.filter { !$0.hasPrefix(".") }.map {
      ($0, [UInt8](try Data(contentsOf: URL(filePath: folder + "/" + $0))))
    }
  }

  func write(_ target: FuzzTarget) throws {
    let scratch = try Scratch()
    defer { scratch.remove() }
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    for (name, bytes) in try target.examples(scratch.path) {
      try Data(bytes).write(to: URL(filePath: "\(folder)/valid-\(name)"))
    }
  }
}
