import CFuzzWatch
import Foundation
import FuzzTargets

/// Starts processes that decode, sees them die or hang, keeps the input that did it, and goes on behind it.
struct Supervisor {
  let corpus: String
  let findings: String
  let seed: UInt64
  let inputSeconds: Double
  let mostFindings: Int
  private(set) var failed = false
  private var rows: [[String]] = []
  private var totalInputs = 0

  init(corpus: String, findings: String, seed: UInt64, inputSeconds: Double, mostFindings: Int) {
    self.corpus = corpus
    self.findings = findings
    self.seed = seed
    self.inputSeconds = inputSeconds
    self.mostFindings = mostFindings
  }

  /// An input that does not use the processor either is given up after so many times its CPU seconds.
  private static let waitFactor = 15.0

  private struct Ending {
    var reason: String
    var index: Int
    var input: [UInt8]
  }

  mutating func run(_ target: FuzzTarget, count: Int, seconds: Double?) throws {
    let began = ContinuousClock.now
    let deadline = seconds.map { began + .seconds($0) }
    var next = -(try Corpus(corpus, target.name).read().count)
    guard next < 0 else {
      throw CocoaError(.fileNoSuchFile, userInfo: [NSFilePathErrorKey: "\(corpus)/\(target.name)"])
    }
    var (done, accepted, found) = (0, 0, 0)
    var peak: UInt64 = 0
    while next < count {
      let scratch = try Scratch()
      defer { scratch.remove() }
      let pagePath = scratch.path + "/page"
      guard let page = fuzz_page_open(pagePath, true) else { throw CocoaError(.fileWriteUnknown) }
      defer { munmap(page, MemoryLayout<fuzz_page>.size) }
      let ending = try decode(target, page, scratch: scratch.path, pagePath: pagePath, first: next, count, deadline)
      done += Int(page.pointee.done)
      accepted += Int(page.pointee.accepted)
      peak = max(peak, page.pointee.peak_bytes)
      guard let ending else { break }
      found += 1
      failed = true
      try report(target, ending, number: found)
      next = ending.index + 1
      if found >= mostFindings {
        print("\(target.name): left after \(found) findings")
        break
      }
    }
    let took = (ContinuousClock.now - began) / .seconds(1)
    totalInputs += done
    let row = [
      target.name, "\(done)", "\(accepted)", String(format: "%.0f", Double(done) / max(took, 1e-3)),
      String(format: "%.1f", Double(peak) / 1_048_576), "\(found)",
    ]
    rows.append(row)
    print(
      "\(row[0]): \(row[1]) inputs, \(row[2]) accepted, \(row[3]) a second, at most \(row[4]) MiB for one, "
        + "\(row[5]) findings")
    fflush(nil)
  }

  func summarize() {
    print("\n| target | inputs | accepted | inputs/s | MiB at most | findings |\n|---|---:|---:|---:|---:|---:|")
    for row in rows { print("| " + row.joined(separator: " | ") + " |") }
    print("\nseed \(seed): \(totalInputs) inputs, " + (failed ? "with findings in \(findings)" : "no findings"))
  }

  /// Runs one process to its end; nil when it came to the end of its inputs, or of the time.
  private func decode(
    _ target: FuzzTarget, _ page: UnsafeMutablePointer<fuzz_page>, scratch: String, pagePath: String, first: Int,
    _ count: Int, _ deadline: ContinuousClock.Instant?
  ) throws -> Ending? {
    let process = Process()
    process.executableURL = URL(filePath: CommandLine.arguments[0])
    process.arguments = [
      "--decode", "\(pagePath),\(scratch),\(first),\(count)", "--corpus", corpus, "--seed", "\(seed)", target.name,
    ]
    let log = scratch + "/stderr"
    _ = FileManager.default.createFile(atPath: log, contents: nil)
    process.standardOutput = FileHandle.nullDevice
    let logHandle = try FileHandle(forWritingTo: URL(filePath: log))
    process.standardError = logHandle
    // A trap shall end the process at once, not write a page of addresses.
    process.environment = ProcessInfo.processInfo.environment.merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
    page.pointee.index = UInt64(bitPattern: Int64(first))
    try process.run()
    var current = (done: UInt64.max, cpu: UInt64(0), since: ContinuousClock.now)
    var hang: String?
    var stopped = false
    while process.isRunning {
      usleep(5_000)
      let now = ContinuousClock.now
      let done = page.pointee.done
      if done != current.done {
        current = (done, fuzz_cpu_milliseconds(process.processIdentifier), now)
        // Libraries complain without end.
        if done % 64 == 0 { try? logHandle.truncate(atOffset: 0) }
      } else if page.pointee.input_bytes > 0 || done > 0 {
        let used = Double(fuzz_cpu_milliseconds(process.processIdentifier)) - Double(current.cpu)
        let waited = (now - current.since) / .seconds(1)
        if used > inputSeconds * 1000 || waited > inputSeconds * Self.waitFactor {
          hang = "it did not end within \(used / 1000) s of CPU time, \(String(format: "%.1f", waited)) s in all"
        }
      }
      if let deadline, now > deadline { stopped = true }
      if hang != nil || stopped { kill(process.processIdentifier, SIGKILL) }
    }
    process.waitUntilExit()
    if stopped && hang == nil { return nil }
    let index = Int(Int64(bitPattern: page.pointee.index))
    let input = Array(UnsafeBufferPointer(start: fuzz_input(page), count: Int(page.pointee.input_bytes)))
    if let hang { return Ending(reason: hang, index: index, input: input) }
    if page.pointee.finding != 0 {
      let text = withUnsafeBytes(of: &page.pointee.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      return Ending(reason: text, index: index, input: input)
    }
    guard process.terminationStatus != 0 || process.terminationReason == .uncaughtSignal else { return nil }
    let said = ((try? String(contentsOfFile: log, encoding: .utf8)) ?? "").split(separator: "\n").suffix(3)
      .joined(separator: " / ")
    let end =
      process.terminationReason == .uncaughtSignal
      ? "signal \(process.terminationStatus)" : "exit status \(process.terminationStatus)"
    return Ending(reason: "\(end): \(said)", index: index, input: input)
  }

  private func report(_ target: FuzzTarget, _ ending: Ending, number: Int) throws {
    try FileManager.default.createDirectory(atPath: findings, withIntermediateDirectories: true)
    let file = "\(findings)/\(target.name)-seed\(seed)-\(ending.index)"
    try Data(ending.input).write(to: URL(filePath: file))
    print(
      """
      FOUND in \(target.name): \(ending.reason)
        seed \(seed), input \(ending.index)\(ending.index < 0 ? " (of the corpus)" : ""), \(ending.input.count) bytes: \(file)
        again: ops/fuzz --replay \(file) \(target.name)
      """)
    fflush(nil)
  }
}
