import Foundation
import Logging

/// Log lines that stay above a progress line instead of being written into it.
struct ProgressLogHandler: LogHandler {
  let line: ProgressLine
  var logLevel = Logger.Level.info
  var metadata = Logger.Metadata()

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let time = Date().formatted(.iso8601.time(includingFractionalSeconds: false).timeSeparator(.colon))
    line.print("\(time) \(event.level): \(event.message)")
  }
}

extension Logger {
  /// The same logger, printing above a progress line.
  func above(_ line: ProgressLine) -> Logger {
    var logger = Logger(label: label) { _ in ProgressLogHandler(line: line) }
    logger.logLevel = logLevel
    return logger
  }
}
