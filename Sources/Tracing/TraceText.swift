import ClusterModel

/// Spans as the text that Perfetto and chrome://tracing read: the JSON array format of the Trace Event
/// Format, one event a line.
///
/// The closing bracket may be missing (the format allows it), so the text can be appended to while a run goes on and
/// is readable however it ends.
public struct TraceText: Sendable {
  private var isEmpty = true
  /// Where each row of each process ends so far: offsets of clocks are estimates, and rows must not overlap.
  private var ends: [Row: UInt64] = [:]
  private struct Row: Hashable, Sendable {
    var process: Int
    var track: Int
  }

  public init() {}

  /// Names a process and its rows.
  public mutating func name(process: Int, _ name: String, rows: [(number: Int, name: String)]) -> String {
    var text = event(#"{"name":"process_name","ph":"M","pid":\#(process),"args":{"name":"\#(Self.escaped(name))"}}"#)
    text += event(#"{"name":"process_sort_index","ph":"M","pid":\#(process),"args":{"sort_index":\#(process)}}"#)
    for row in rows {
      text += event(
        #"{"name":"thread_name","ph":"M","pid":\#(process),"tid":\#(row.number),"args":{"name":"\#(Self.escaped(row.name))"}}"#
      )
    }
    return text
  }

  /// One activity of a process.
  /// - Parameters:
  ///   - start, end: nanoseconds of the one clock that the file is in.
  public mutating func activity(
    _ name: String, process: Int, row: Int, from start: UInt64, to end: UInt64, step: Step, microbatch: UInt32? = nil
  ) -> String {
    let key = Row(process: process, track: row)
    let start = max(start, ends[key] ?? 0)
    let end = max(start, end)
    ends[key] = end
    let microbatch = microbatch.map { #","microbatch":\#($0)"# } ?? ""
    return event(
      #"{"name":"\#(Self.escaped(name))","ph":"X","ts":\#(Self.microseconds(start)),"dur":\#(Self.microseconds(end - start)),"pid":\#(process),"tid":\#(row),"args":{"step":\#(step)\#(microbatch)}}"#
    )
  }

  /// A number that changes with time, drawn as a curve of a process.
  public mutating func counter(_ name: String, process: Int, at time: UInt64, value: UInt64) -> String {
    event(
      #"{"name":"\#(Self.escaped(name))","ph":"C","ts":\#(Self.microseconds(time)),"pid":\#(process),"args":{"value":\#(value)}}"#
    )
  }

  /// Ends the array.
  public mutating func end() -> String {
    let text = isEmpty ? "[]\n" : "\n]\n"
    isEmpty = true
    return text
  }

  private mutating func event(_ json: String) -> String {
    defer { isEmpty = false }
    return (isEmpty ? "[\n" : ",\n") + json
  }

  /// Nanoseconds as microseconds with three decimals, exactly.
  static func microseconds(_ nanoseconds: UInt64) -> String {
    let rest = String(nanoseconds % 1_000)
    return "\(nanoseconds / 1_000)." + String(repeating: "0", count: 3 - rest.count) + rest
  }

  static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case _ where scalar.value < 0x20: result += " "
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}
