import ArgumentParser
import Coordinator
import Foundation
import Keys

struct StatusCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Show how far a run is: losses, speed, time left, checkpoint, workers.",
    discussion: """
      With a run directory, a live coordinator is asked where there is one, else the journal; with an address, the \
      coordinator there. The JSON is described in docs/status-json.md.
      """)

  @Argument(
    help: ArgumentHelp(
      "A run directory, or a coordinator's address such as tcp://127.0.0.1:7070.", valueName: "dir-or-address"))
  var target: String

  @Flag(name: .long, help: "Repeat every second until the run ends.")
  var watch = false

  @Flag(name: .long, help: "One line of JSON.")
  var json = false

  @Option(name: .long, help: ArgumentHelp("How long to wait for the coordinator.", valueName: "seconds"))
  var timeout: Double = 2

  @OptionGroup var keys: ConnectingKeyOptions

  func validate() throws {
    guard timeout > 0, timeout <= 3600 else { throw ValidationError("--timeout must be in 0...3600 seconds") }
  }

  func run() throws {
    let redraws = watch && !json && isatty(STDOUT_FILENO) == 1
    var last: StatusReport?
    while true {
      let report: StatusReport
      do {
        report = try ask()
      } catch let failure as CommandFailure where failure.status == .unavailable && last != nil {
        // It answered before: the run has ended between two questions.
        print("The coordinator is gone; its run directory tells how the run ended.")
        return
      }
      last = report
      if redraws { FileHandle.standardOutput.write(Data("\u{1B}[H\u{1B}[2J".utf8)) }
      FileHandle.standardOutput.write(Data((json ? try report.json() + "\n" : report.text(width: Self.columns)).utf8))
      guard watch, report.live, report.outcome == nil else { return }
      Thread.sleep(forTimeInterval: 1)
    }
  }

  private func ask() throws -> StatusReport {
    let log = LoggingOptions.standard("status")
    guard target.contains("://") else {
      return try StatusQuery.ask(
        RunDirectory(target), timeoutSeconds: timeout, allowPlaintext: keys.insecurePlaintext
      ) { address, server in
        if keys.key == nil, !FileManager.default.fileExists(atPath: KeyFile.defaultPath) {
          log.warning(
            "the coordinator at \(address) encrypts and no key is given (--key): this is what its journal says")
          return nil
        }
        return try keys.choose(address: address, server: server, log: log)
      }
    }
    let clientKeys = try keys.choose(address: target, log: log)
    guard
      let report = try StatusQuery.ask(
        target, timeoutSeconds: timeout, keys: clientKeys, allowPlaintext: keys.insecurePlaintext)
    else {
      throw CommandFailure(
        .unavailable,
        "no coordinator answered at \(target) within \(timeout.formatted()) s; give its run directory to see the journal"
      )
    }
    return report
  }

  private static var columns: Int {
    var size = winsize()
    return ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
  }
}

/// The status in one line, for progress while training.
enum StatusText {
  static func line(_ report: StatusReport) -> String {
    let fraction = report.totalSteps == 0 ? 1 : Double(report.step) / Double(report.totalSteps)
    let cells = 20
    let full = min(cells, Int(fraction * Double(cells)))
    var parts = [
      "[" + String(repeating: "#", count: full) + String(repeating: "-", count: cells - full) + "]",
      "step \(report.step)/\(report.totalSteps)",
    ]
    if let loss = report.languageModelLoss { parts.append(String(format: "language model %.3f", loss)) }
    if let loss = report.diffusionLoss { parts.append(String(format: "diffusion %.3f", loss)) }
    if let speed = report.tokensPerSecond { parts.append(String(format: "%.0f tokens/s", speed)) }
    if let left = report.secondsLeft, report.step < report.totalSteps {
      parts.append(ProgressLine.duration(left) + " left")
    }
    return parts.joined(separator: "  ")
  }
}
