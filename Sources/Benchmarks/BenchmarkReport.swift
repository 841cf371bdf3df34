import Compute
import Foundation

/// What one benchmark measured, where and how: the whole of it as text for people and as one JSON object.
public struct BenchmarkReport: Sendable {
  /// `compute`, `allreduce` and so on.
  public var benchmark: String
  public var environment: BenchmarkEnvironment
  /// What was measured: preset, precision, threads.
  public var settings: [(name: String, value: String)]
  public private(set) var figures: [Figure] = []
  public var notes: [String] = []

  public struct Figure: Sendable {
    /// The JSON key: camel case, the unit spelled out at the end.
    public var key: String
    public var value: Double
    public var label: String
    public var unit: String
  }

  public init(benchmark: String, environment: BenchmarkEnvironment, settings: [(name: String, value: String)]) {
    self.benchmark = benchmark
    self.environment = environment
    self.settings = settings
  }

  public mutating func add(_ key: String, _ value: Double, _ label: String, unit: String = "") {
    figures.append(Figure(key: key, value: value, label: label, unit: unit))
  }

  public subscript(key: String) -> Double? { figures.first { $0.key == key }?.value }

  public var text: String {
    var lines = ["\(benchmark): \(settings.map { "\($0.name) \($0.value)" }.joined(separator: ", "))"]
    let width = figures.map(\.label.count).max() ?? 0
    for figure in figures {
      let label = figure.label.padding(toLength: width, withPad: " ", startingAt: 0)
      lines.append("  \(label)  \(Self.format(figure.value))\(figure.unit.isEmpty ? "" : " \(figure.unit)")")
    }
    lines += notes.map { "  note: \($0)" }
    lines.append("  on \(environment.processor), \(environment.cores) cores, \(environment.fingerprint)")
    lines.append("  \(environment.date)  \(environment.command)")
    return lines.joined(separator: "\n")
  }

  public func json() throws -> String {
    var object: [String: Any] = [
      "benchmark": benchmark, "processor": environment.processor, "cores": environment.cores,
      "fingerprint": environment.fingerprint, "date": environment.date, "command": environment.command,
      "settings": Dictionary(uniqueKeysWithValues: settings.map { ($0.name, $0.value) }),
    ]
    // JSON has no infinities: a figure without a value is left out.
    object["figures"] = Dictionary(
      uniqueKeysWithValues: figures.filter { $0.value.isFinite }.map { ($0.key, $0.value) })
    if !notes.isEmpty { object["notes"] = notes }
    let data = try JSONSerialization.data(withJSONObject: object, options: [.sortedKeys, .withoutEscapingSlashes])
    return String(decoding: data, as: UTF8.self)
  }

  /// Four significant digits, and no exponent in the range that the benchmarks have.
  static func format(_ value: Double) -> String {
    if value == value.rounded(), abs(value) < 1e9 { return String(format: "%.0f", value) }
    if abs(value) >= 1000 { return String(format: "%.0f", value) }
    let decimals = abs(value) >= 100 ? 1 : abs(value) >= 10 ? 2 : abs(value) >= 0.1 ? 3 : 5
    return String(format: "%.\(decimals)f", value)
  }
}

/// The machine and the moment of a measurement.
public struct BenchmarkEnvironment: Sendable {
  public var processor: String
  public var cores: Int
  public var fingerprint: String
  public var date: String
  public var command: String

  /// - Parameter fingerprint: of the device that was measured.
  public init(fingerprint: String) {
    processor = Self.processorName
    cores = ProcessInfo.processInfo.activeProcessorCount
    self.fingerprint = fingerprint
    date = ISO8601DateFormatter().string(from: Date())
    let arguments = CommandLine.arguments
    command = ([URL(filePath: arguments[0]).lastPathComponent] + arguments.dropFirst()).joined(separator: " ")
  }

  /// As /proc/cpuinfo names it; family, model and stepping tell virtual processors of one name apart.
  private static var processorName: String {
    guard let text = try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8) else { return "unknown processor" }
    func field(_ name: String) -> String? {
      for line in text.split(separator: "\n") {
        let parts = line.split(separator: ":", maxSplits: 1)
        if parts.count == 2, parts[0].trimmingCharacters(in: .whitespaces) == name {
          return parts[1].trimmingCharacters(in: .whitespaces)
        }
      }
      return nil
    }
    guard let name = field("model name") else { return "unknown processor" }
    guard let family = field("cpu family"), let model = field("model"), let stepping = field("stepping") else {
      return name
    }
    return "\(name) (family \(family), model \(model), stepping \(stepping))"
  }
}

/// The process's largest resident memory, as the kernel counts it.
enum PeakMemory {
  /// Bytes of VmHWM; nil where the kernel does not say.
  static var bytes: Int? {
    (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)).flatMap(bytes(inStatus:))
  }
  /// The same from the text of a process's status.
  static func bytes(inStatus text: String) -> Int? {
    for line in text.split(separator: "\n") where line.hasPrefix("VmHWM:") {
      return line.split(whereSeparator: { $0 == " " || $0 == "\t" }).dropFirst().first.flatMap { Int($0) }.map {
        $0 << 10
      }
    }
    return nil
  }
  /// Starts the count again at what is resident now.
  static func reset() {
    guard let file = FileHandle(forWritingAtPath: "/proc/self/clear_refs") else { return }
    try? file.write(contentsOf: Data("5".utf8))
    try? file.close()
  }
}

/// Seconds of repeated trials.
struct Trials {
  private(set) var seconds: [Double] = []
  mutating func add(_ trial: Double) { seconds.append(trial) }
  var best: Double { seconds.min() ?? .infinity }
  var mean: Double { seconds.isEmpty ? .infinity : seconds.reduce(0, +) / Double(seconds.count) }
  /// The upper of the two middle trials where their number is even, as in the peers.
  var median: Double { seconds.isEmpty ? .infinity : seconds.sorted()[seconds.count / 2] }
}
