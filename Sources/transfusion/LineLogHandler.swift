import Foundation
import Logging

/// One line an event: time, level, message. Where it goes is the caller's: standard error, or above a progress line.
struct LineLogHandler: LogHandler {
  let write: @Sendable (String) -> Void
  var logLevel = Logger.Level.info
  var metadata = Logger.Metadata()

  /// To the millisecond: what happens after a death happens within seconds.
  private static let timeFormat = Date.ISO8601FormatStyle(includingFractionalSeconds: true)

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let time = Date().formatted(Self.timeFormat)
    write("\(time) \(event.level) \(event.message)")
  }
}

extension Logger {
  /// The same logger, printing above a progress line.
  func above(_ line: ProgressLine) -> Logger {
    var logger = Logger(label: label) { _ in LineLogHandler { line.print($0) } }
    logger.logLevel = logLevel
    return logger
  }
}
