import Foundation

#if canImport(Glibc)
  import Glibc
#endif

/// Everything that a benchmark starts or writes: it ends with the benchmark, however that ends.
public final class BenchmarkScope: Sendable {
  private struct State {
    var directories: [String] = []
    var processes: Set<pid_t> = []
    var signals: [any DispatchSourceSignal] = []
    var ended = false
  }
  // Safe because every access is under `lock`.
  nonisolated(unsafe) private var state = State()
  private let lock = NSLock()

  public init() {}

  /// Ends everything when the process is asked to end (Ctrl-C, SIGTERM, a closed terminal), and then the process.
  public func endOnSignals() {
    let queue = DispatchQueue(label: "benchmark signals")
    for number in [SIGINT, SIGTERM, SIGHUP] {
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: queue)
      source.setEventHandler { [self] in
        end()
        _exit(128 + number)
      }
      source.activate()
      lock.withLock { state.signals.append(source) }
    }
  }

  /// A new empty directory that is removed at the end.
  /// - Parameter parent: on the file system to measure; the system's temporary directory where nil.
  public func directory(in parent: String? = nil) throws -> String {
    let base = parent.map { URL(filePath: $0) } ?? FileManager.default.temporaryDirectory
    let path = base.appending(path: "transfusion-bench-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    lock.withLock { state.directories.append(path) }
    return path
  }

  /// Starts this executable with other arguments.
  /// - Parameters:
  ///   - output: where standard output goes; beside standard error where nil.
  ///   - log: a file that is made for standard error.
  func start(_ arguments: [String], output: Pipe? = nil, input: Pipe? = nil, log: String) throws -> Process {
    guard FileManager.default.createFile(atPath: log, contents: nil), let file = FileHandle(forWritingAtPath: log)
    else { throw BenchmarkError.cannotWrite(path: log) }
    let process = Process()
    process.executableURL = URL(
      filePath: (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe"))
        ?? CommandLine.arguments[0])
    process.arguments = arguments
    process.standardInput = input ?? FileHandle.nullDevice
    process.standardOutput = output ?? file
    process.standardError = file
    // Under the lock, so that a signal finds every process that runs.
    try lock.withLock {
      if state.ended { throw BenchmarkError.ended }
      try process.run()
      state.processes.insert(process.processIdentifier)
    }
    return process
  }

  /// Starts a worker that ends with the benchmark.
  /// - Parameter memoryShare: of this host's memory.
  func startWorker(joining address: String, threads: Int, memoryShare: Double, log: String) throws -> Process {
    let memory = Int(Double(ProcessInfo.processInfo.physicalMemory) * memoryShare)
    return try start(
      [
        "worker", "join", address, "--threads", "\(threads)", "--memory-limit", "\(memory)", "--exit-with-parent",
        "--log-level", "debug",
      ], log: log)
  }

  /// Looks until `condition` gives a value, at most so many seconds.
  /// - Parameters:
  ///   - interval: seconds from look to look.
  ///   - processes: whose end leaves nothing to wait for; each with its name and log.
  func wait<Value>(
    for what: String, seconds: Double, every interval: Double = 0.02,
    during processes: @autoclosure () -> [(name: String, process: Process, log: String)],
    _ condition: () throws -> Value?
  ) throws -> Value {
    let deadline = Date().addingTimeInterval(seconds)
    while Date() < deadline {
      if let value = try condition() { return value }
      for (name, process, log) in processes() where !process.isRunning {
        throw BenchmarkError.failure(of: name, wait(for: process, seconds: 1), log: log)
      }
      Thread.sleep(forTimeInterval: interval)
    }
    throw BenchmarkError.timedOut(waitingFor: what, seconds: seconds)
  }

  /// Waits for a process that was started here; after so many seconds it is killed.
  /// - Returns: its exit status.
  @discardableResult func wait(for process: Process, seconds: Double) -> Int32 {
    let deadline = Date().addingTimeInterval(seconds)
    while process.isRunning, Date() < deadline { usleep(10_000) }
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
    process.waitUntilExit()
    lock.withLock { _ = state.processes.remove(process.processIdentifier) }
    return process.terminationStatus
  }

  func remove(_ directory: String) {
    lock.withLock { state.directories.removeAll { $0 == directory } }
    try? FileManager.default.removeItem(atPath: directory)
  }

  /// Kills what still runs and removes the directories; nothing can be started afterwards.
  public func end() {
    let (processes, directories) = lock.withLock {
      defer {
        state.ended = true
        state.processes = []
        state.directories = []
      }
      return (state.processes, state.directories)
    }
    for process in processes { kill(process, SIGKILL) }
    for directory in directories {
      // A process that is being killed may write once more.
      for _ in 0..<20 {
        try? FileManager.default.removeItem(atPath: directory)
        if !FileManager.default.fileExists(atPath: directory) { break }
        usleep(50_000)
      }
    }
  }
}

/// What keeps a benchmark from measuring.
public enum BenchmarkError: Error, CustomStringConvertible {
  case cannotWrite(path: String)
  case ended
  case processFailed(name: String, status: Int32, lastLine: String)
  case timedOut(waitingFor: String, seconds: Double)
  case wrongResult(reason: String)

  static func failure(of name: String, _ status: Int32, log: String) -> BenchmarkError {
    let text = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
    let last = text.split(separator: "\n").last.map(String.init) ?? "its log is empty"
    return .processFailed(name: name, status: status, lastLine: last)
  }

  public var description: String {
    switch self {
    case .cannotWrite(let path): "cannot write \(path)"
    case .ended: "the benchmark was asked to end"
    case .processFailed(let name, let status, let line): "the \(name) ended with exit code \(status): \(line)"
    case .timedOut(let what, let seconds): "waited \(seconds) s for \(what) in vain"
    case .wrongResult(let reason): "a measured operation gave a wrong result: \(reason)"
    }
  }
}
