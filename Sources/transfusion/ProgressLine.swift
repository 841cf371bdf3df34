import Foundation
import Synchronization

/// Progress of long work on standard error: on a terminal one line that is redrawn, otherwise a plain line now
/// and then. Standard output stays for results. May be used from any thread.
final class ProgressLine: Sendable {
  enum Unit: Sendable {
    case bytes
    /// Things of a name, in the plural: "documents".
    case count(String)
  }

  private struct State {
    var lastShown: ContinuousClock.Instant?
    var isOnTerminalLine = false
    var lastText = ""
  }

  private let label: String
  private let unit: Unit
  private let isTerminal: Bool
  private let interval: Duration
  private let started = ContinuousClock.now
  private let state = Mutex(State())

  /// - Parameters:
  ///   - label: what is going on, at the start of the line.
  ///   - plainIntervalSeconds: least time between plain lines where standard error is no terminal.
  init(_ label: String, unit: Unit = .bytes, plainIntervalSeconds: Double = 5) {
    self.label = label
    self.unit = unit
    isTerminal = isatty(STDERR_FILENO) == 1
    interval = isTerminal ? .milliseconds(100) : .milliseconds(Int(plainIntervalSeconds * 1000))
  }

  /// Reports that `done` of `total` is done; cheap enough to call for every piece.
  func update(done: UInt64, of total: UInt64? = nil, note: String = "") {
    show { self.text(done: done, total: total, note: note, seconds: Self.seconds(since: self.started)) }
  }

  /// Shows a text of the caller's in place of a measured one.
  func update(_ text: String) { show { "\(self.label)  \(text)" } }

  /// Prints a line that stays, above the progress.
  func print(_ line: String) {
    state.withLock { state in
      clear(&state)
      write(line + "\n")
      if isTerminal && !state.lastText.isEmpty {
        write(state.lastText)
        state.isOnTerminalLine = true
      }
    }
  }

  /// Ends the progress: clears the line, and leaves `summary` where there is one.
  func finish(_ summary: String? = nil) {
    state.withLock { state in
      clear(&state)
      state.lastText = ""
      if let summary { write(summary + "\n") }
    }
  }

  private func show(_ text: () -> String) {
    let now = ContinuousClock.now
    state.withLock { state in
      // Off a terminal the first line waits an interval too: short work says nothing.
      let last = state.lastShown ?? (isTerminal ? nil : started)
      if let last, now - last < interval { return }
      state.lastShown = now
      let line = text()
      if isTerminal {
        state.lastText = String(line.prefix(Self.terminalWidth() - 1))
        write("\r\u{1B}[K" + state.lastText)
        state.isOnTerminalLine = true
      } else {
        write(line + "\n")
      }
    }
  }

  private func clear(_ state: inout State) {
    guard state.isOnTerminalLine else { return }
    write("\r\u{1B}[K")
    state.isOnTerminalLine = false
  }

  private func text(done: UInt64, total: UInt64?, note: String, seconds: Double) -> String {
    var parts = [label]
    let rate = seconds > 0 ? Double(done) / seconds : 0
    if let total, total > 0 {
      let share = min(1, Double(done) / Double(total))
      let filled = Int(share * 20)
      parts.append("[" + String(repeating: "#", count: filled) + String(repeating: ".", count: 20 - filled) + "]")
      parts.append("\(Int(share * 100)) %")
      parts.append("\(amount(Double(done))) of \(amount(Double(total)))")
      parts.append("\(amount(rate))/s")
      if rate > 0 && done < total { parts.append(Self.duration(Double(total - done) / rate) + " left") }
    } else {
      parts.append(amount(Double(done)))
      parts.append("\(amount(rate))/s")
    }
    if !note.isEmpty { parts.append(note) }
    return parts.joined(separator: "  ")
  }

  private func amount(_ value: Double) -> String {
    switch unit {
    case .bytes: Self.bytes(value)
    case .count(let name): "\(Int(value)) \(name)"
    }
  }

  private func write(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }

  private static func terminalWidth() -> Int {
    var size = winsize()
    guard ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 10 else { return 80 }
    return Int(size.ws_col)
  }

  private static func seconds(since start: ContinuousClock.Instant) -> Double {
    let (seconds, attoseconds) = (ContinuousClock.now - start).components
    return Double(seconds) + Double(attoseconds) * 1e-18
  }

  /// A size with a binary unit, such as `1.5 GiB`.
  static func bytes(_ value: Double) -> String {
    var value = value
    var unit = 0
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while value >= 1024 && unit < units.count - 1 {
      value /= 1024
      unit += 1
    }
    return unit == 0 ? "\(Int(value)) B" : String(format: "%.1f %@", value, units[unit])
  }

  /// A time in its two largest units, such as `2 h 5 min`.
  static func duration(_ seconds: Double) -> String {
    // Beyond a century nobody reads the minutes.
    let whole = Int(min(max(0, seconds), 3.2e9))
    switch whole {
    case ..<60: return "\(whole) s"
    case ..<3600: return "\(whole / 60) min \(whole % 60) s"
    case ..<86_400: return "\(whole / 3600) h \(whole % 3600 / 60) min"
    default: return "\(whole / 86_400) d \(whole % 86_400 / 3600) h"
    }
  }
}
