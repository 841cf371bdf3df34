import Foundation
import Testing

/// A model and a data set so small that a run takes a second or two, on the quickstart's real data.
enum TinyRun {
  /// Documents of small emoji and glosses, made once for the test process by the commands a user runs.
  static let data: Result<TemporaryFolder, any Error> = Result {
    let folder = try TemporaryFolder()
    for arguments in [
      ["data", "demo", folder.path("sources")],
      [
        "data", "prepare", "--out", folder.path("documents"), "--images", folder.path("sources/emoji-train.tar"),
        "--text", folder.path("sources/wordnet-train.jsonl"), "--validation-images",
        folder.path("sources/emoji-validation.tar"), "--validation-text",
        folder.path("sources/wordnet-validation.jsonl"), "--vocabulary", "600", "--image-size", "16",
        "--sequence-length", "64", "--patch", "4",
      ],
    ] {
      let result = try Command.run(arguments, seconds: 240)
      guard result.code == 0 else {
        throw Failure(text: "transfusion \(arguments.joined(separator: " ")): \(result.text)")
      }
    }
    return folder
  }
  struct Failure: Error, CustomStringConvertible {
    var text: String
    var description: String { text }
  }

  static func documents() throws -> String { try data.get().path("documents") }

  /// Writes the configuration of the tiny run and returns its path.
  static func configuration(in folder: TemporaryFolder) throws -> String {
    let path = folder.path("tiny.yaml")
    try """
    run:
      seed: 11
      steps: 6
    model:
      layers: 4
      width: 64
      heads: 4
      key_value_heads: 2
      feed_forward_width: 160
      vocabulary: 600
      channels: 3
      latent_size: 16
      patch: 4
    training:
      precision: float32
    data:
      directory: \(documents())
      sequence_length: 64
    batch:
      microbatches: 8
      leaves: 4
      sequences_per_microbatch: 2
    optimizer:
      peak_learning_rate: 1.0e-3
      final_learning_rate: 1.0e-4
      warmup_steps: 2
    checkpoint:
      every: 2
      keep_last: 4
    validation:
      every: 3
      microbatches: 4

    """.write(toFile: path, atomically: true, encoding: .utf8)
    return path
  }

  /// `transfusion train` with overrides; records an issue unless it exits with `expecting`.
  @discardableResult static func train(
    _ run: String, configuration: String, workers: Int, threads: Int = 1, set: [String] = [], expecting code: Int32 = 0
  ) throws -> Command.Result {
    let result = try Command.run(
      ["train", "--config", configuration, "--run", run, "--workers", "\(workers)", "--threads", "\(threads)"]
        + set.flatMap { ["--set", $0] })
    #expect(result.code == code, "train \(set) on \(workers) workers: \(result.text)")
    return result
  }

  @discardableResult static func resume(
    _ run: String, workers: Int, set: [String] = [], from step: Int? = nil, expecting code: Int32 = 0
  ) throws -> Command.Result {
    let result = try Command.run(
      ["resume", run, "--workers", "\(workers)"] + (step.map { ["--from", "\($0)"] } ?? [])
        + set.flatMap { ["--set", $0] })
    #expect(result.code == code, "resume \(set) on \(workers) workers: \(result.text)")
    return result
  }

  static func digest(_ run: String, step: Int? = nil) throws -> String {
    let result = try Command.run(["checkpoint", "digest", run] + (step.map { ["--step", "\($0)"] } ?? []))
    #expect(result.code == 0, "\(result.text)")
    let line = result.output.trimmingCharacters(in: .whitespacesAndNewlines)
    #expect(line.count == 64 && line.allSatisfy(\.isHexDigit), "not one hexadecimal line: \(result.output)")
    return line
  }

  /// Rows of a query on the run's journal, columns separated by "|".
  static func journal(_ run: String, _ query: String) throws -> [String] {
    let (status, rows) = try sqlite(run, query)
    #expect(status == 0, "sqlite3 \(query)")
    return rows
  }

  /// Steps in the journal of a run that may just be starting: 0 while there is no journal to read.
  static func committedSteps(_ run: String) -> Int {
    guard FileManager.default.fileExists(atPath: "\(run)/journal.sqlite"),
      let (status, rows) = try? sqlite(run, "SELECT count(*) FROM steps"), status == 0
    else { return 0 }
    return rows.first.flatMap { Int($0) } ?? 0
  }

  /// Changes a journal behind everybody's back.
  static func change(_ database: String, _ statement: String) throws {
    let (status, _) = try sqlite([database, statement])
    #expect(status == 0, "sqlite3 \(statement)")
  }

  private static func sqlite(_ run: String, _ query: String) throws -> (status: Int32, rows: [String]) {
    try sqlite(["-readonly", "\(run)/journal.sqlite", query])
  }

  private static func sqlite(_ arguments: [String]) throws -> (status: Int32, rows: [String]) {
    let process = Process()
    process.executableURL = URL(filePath: "/usr/bin/sqlite3")
    process.arguments = arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = FileHandle.nullDevice
    try process.run()
    let bytes = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init))
  }
}

/// Removes folders when the test process ends.
final class ExitRemoval: Sendable {
  private let lock = NSLock()
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var paths: [String] = []
  func register(_ path: String) {
    lock.withLock {
      if paths.isEmpty { atexit { atexitRemoval.removeAll() } }
      paths.append(path)
    }
  }
  func removeAll() { lock.withLock { for path in paths { try? FileManager.default.removeItem(atPath: path) } } }
}
let atexitRemoval = ExitRemoval()
