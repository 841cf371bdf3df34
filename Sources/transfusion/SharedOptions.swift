import ArgumentParser
import Configuration
import Foundation
import Logging
import TransfusionModel

struct ConfigurationOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp("Run configuration (YAML); every key is in docs/configuration.md.", valueName: "file"))
  var config: String

  @Option(
    name: .long, parsing: .singleValue,
    help: ArgumentHelp("Override one key, for example run.steps=100; may be repeated.", valueName: "key.path=value"))
  var set: [String] = []

  func load(extra: [String] = []) throws -> RunConfiguration {
    try RunConfiguration.load(file: config, overrides: set + extra)
  }
}

struct TraceOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Write what every worker does and when, for ui.perfetto.dev or chrome://tracing; replaces the file.",
      valueName: "file"), completion: .file())
  var trace: String?
}

struct LoggingOptions: ParsableArguments {
  @Option(name: .long, help: "trace, debug, info, notice, warning, error or critical.")
  var logLevel: Logger.Level = .info

  /// For commands without options for it.
  static func standard(_ label: String) -> Logger {
    Logger(label: label) { _ in LineLogHandler(write: StandardError.write) }
  }

  /// - Parameter mark: what each line begins with, where several processes write to one place.
  func logger(_ label: String, mark: String = "") -> Logger {
    var logger = Logger(label: label) { _ in LineLogHandler { StandardError.write(mark + $0) } }
    logger.logLevel = logLevel
    return logger
  }
}

extension Recompute: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}
