import ArgumentParser
import ClusterModel
import Configuration
import ControlPlane
import Coordinator
import Foundation
import TrainingData

/// `transfusion ledger`: the account of a run's steps and samples, from its journal.
struct LedgerCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ledger",
    abstract: "Shows and verifies which samples every committed step consumed, and who computed it.",
    discussion: """
      Reads the journal of a run directory and nothing else; a live coordinator is not disturbed. docs/ledger.md \
      explains columns, JSON and what is verified.
      """,
    subcommands: [LedgerShowCommand.self, LedgerVerifyCommand.self])
}

struct LedgerShowCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show",
    abstract: "Lists the committed steps: generation, samples, losses, gradient norm, who computed which leaf.")
  @Argument(help: "The run directory.", completion: .directory)
  var directory: String
  @Option(help: ArgumentHelp("The first step to show.", valueName: "step"))
  var from: UInt64?
  @Option(help: ArgumentHelp("The last step to show.", valueName: "step"))
  var to: UInt64?
  @Option(help: ArgumentHelp("Show the newest steps only.", valueName: "count"))
  var last: UInt64?
  @Flag(help: "One line of JSON for each step, each skipped range and each expelled worker.")
  var json = false

  func validate() throws {
    if last != nil, from != nil || to != nil {
      throw ValidationError("--last and --from or --to exclude each other")
    }
    if let last, last == 0 { throw ValidationError("--last must be at least 1") }
    if let from, let to, from > to { throw ValidationError("--from \(from) is after --to \(to)") }
  }

  func run() throws {
    let ledger = try Ledger(RunDirectory(directory))
    guard let newest = try ledger.newestStep() else {
      StandardError.write("no step is committed yet")
      return
    }
    let first = from ?? last.map { newest - min(newest, $0 - 1) } ?? 0
    let final = to ?? .max
    guard first <= newest else {
      throw CommandFailure(.usage, "the newest committed step is \(newest): there is no step \(first)")
    }
    var output = LineOutput()
    var text = LedgerText()
    try ledger.forEachEntry(in: first...max(first, final)) { entry in
      for line in json ? [try entry.json()] : text.lines(entry) { output.add(line) }
    }
    output.flush()
  }
}

struct LedgerVerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Proves that every sample was consumed exactly once; exits with 1 and a list when it was not.")
  @Argument(help: "The run directory.", completion: .directory)
  var directory: String
  @Flag(help: "Compare each step's counts with the run's data as well, which must still be where they were.")
  var data = false

  func run() throws {
    let directory = RunDirectory(self.directory)
    let ledger = try Ledger(directory)
    let findings = try ledger.verify(counts: data ? try counts(directory, ledger) : nil)
    for problem in findings.problems { print("\(problem)") }
    if findings.problemCount > findings.problems.count {
      print("and \(findings.problemCount - findings.problems.count) more")
    }
    for skip in findings.skips {
      print(
        "skipped: samples \(skip.record.samples) before step \(skip.step), in \(skip.record.generation): "
          + skip.record.reason)
    }
    guard findings.isGood else {
      let count = findings.problemCount
      throw CommandFailure(
        .checkFailed, "the ledger of \(directory.path) has \(Self.count(UInt64(count), "fault"))")
    }
    let skipped = findings.skips.reduce(0) { $0 + UInt64($1.record.samples.count) }
    print(
      "\(Self.count(findings.steps, "step")) of \(Self.count(UInt64(findings.generations), "generation")) consumed \(findings.samples) samples, each "
        + "exactly once; \(skipped) skipped; the next step begins at sample "
        + "\(findings.nextSample + Self.skippedBehind(findings)); the positions of \(Self.count(UInt64(findings.checkpoints), "checkpoint")) are right"
        + (data ? "; counts are those of the data" : ""))
  }

  private static func count(_ number: UInt64, _ what: String) -> String {
    "\(number) \(what)\(number == 1 ? "" : "s")"
  }

  /// Samples that are skipped right after the newest step.
  private static func skippedBehind(_ findings: LedgerFindings) -> UInt64 {
    findings.skips.filter { $0.step >= findings.steps }.reduce(0) { $0 + UInt64($1.record.samples.count) }
  }

  private func counts(_ directory: RunDirectory, _ ledger: Ledger) throws -> Ledger.Counts {
    let source = try RunConfiguration.load(file: directory.configuration).microbatchSource()
    if let expected = try ledger.dataFingerprint(), expected != source.dataset.fingerprint {
      throw CoordinatorError.dataChanged(expected: expected, found: source.dataset.fingerprint)
    }
    return { samples in
      let counts = try source.denominators(samples: samples)
      return StepDenominators(targetTokens: UInt64(counts.targetTokens), images: UInt64(counts.images))
    }
  }
}

/// The ledger for people: a block for each generation, who computed which leaf above the steps.
struct LedgerText {
  private var generation: Generation?
  private static let columns: [(title: String, width: Int)] = [
    ("step", 8), ("samples", 21), ("tokens", 10), ("targets", 9), ("images", 7), ("language model", 14),
    ("diffusion", 10), ("norm", 10), ("rate", 10), ("seconds", 8),
  ]

  mutating func lines(_ entry: LedgerEntry) -> [String] {
    switch entry {
    case .skipped(let skip, let step):
      return [
        "skipped before step \(step), in \(skip.generation): samples \(skip.samples.lowerBound) to "
          + "\(skip.samples.upperBound - 1): \(skip.reason)"
      ]
    case .expelled(let expulsion):
      return [
        "expelled by step \(expulsion.step), in \(expulsion.generation): \(expulsion.worker)"
          + (expulsion.host.isEmpty ? "" : " (\(expulsion.host))") + ": \(expulsion.reason)"
      ]
    case .step(let step, let replicas):
      let record = step.record
      var lines: [String] = []
      if record.generation != generation {
        if generation != nil { lines.append("") }
        lines.append("\(record.generation)" + (replicas.isEmpty ? ", its plan is not known" : ""))
        lines += replicas.map(Self.line)
        lines.append(Self.row(Self.columns.map(\.title)))
        generation = record.generation
      }
      func loss(_ value: Double?) -> String { value.map { String(format: "%.4f", $0) } ?? "-" }
      lines.append(
        Self.row([
          "\(record.step)", "\(record.samples.lowerBound)-\(record.samples.upperBound - 1)", "\(record.tokens)",
          "\(record.targetTokens)", "\(record.images)", loss(record.languageModelLoss), loss(record.diffusionLoss),
          String(format: "%.4f", record.gradientNorm), String(format: "%.3e", record.learningRate),
          String(format: "%.2f", step.seconds),
        ]))
      return lines
    }
  }

  private static func line(_ replica: LedgerEntry.Replica) -> String {
    let leaves =
      replica.firstLeaf == replica.lastLeaf
      ? "leaf \(replica.firstLeaf)" : "leaves \(replica.firstLeaf) to \(replica.lastLeaf)"
    let workers = replica.workers.map { worker in
      let host = worker.host.isEmpty ? "a host that is not known" : worker.host
      return "worker \(worker.id) on \(host)" + (replica.workers.count > 1 ? " (stage \(worker.stage))" : "")
    }
    return "  \(leaves): \(workers.joined(separator: ", "))"
  }

  private static func row(_ cells: [String]) -> String {
    zip(cells, columns).map { cell, column in
      String(repeating: " ", count: max(0, column.width - cell.count)) + cell
    }.joined(separator: " ")
  }
}

/// Lines for standard output, written some thousands at a time.
private struct LineOutput {
  private var text = ""
  private static let mostBytes = 1 << 16

  mutating func add(_ line: String) {
    text += line + "\n"
    if text.utf8.count >= Self.mostBytes { flush() }
  }
  mutating func flush() {
    FileHandle.standardOutput.write(Data(text.utf8))
    text = ""
  }
}
