import Foundation

/// Programs that tests call.
enum Tool {
  static func run(_ program: String, _ arguments: [String]) throws -> (status: Int32, output: String) {
    let process = Process()
    process.executableURL = URL(filePath: program)
    process.arguments = arguments
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
  }

  /// The full path of a program, nil where it is not installed.
  static func path(_ name: String) -> String? {
    (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":").map { "\($0)/\(name)" }
      .first { FileManager.default.isExecutableFile(atPath: $0) }
  }

  /// A Python that has h5py and NumPy: TRANSFUSION_PYTHON, or python3 where that has them.
  static let python: String? = {
    let candidates = [ProcessInfo.processInfo.environment["TRANSFUSION_PYTHON"], path("python3")]
    return candidates.compactMap { $0 }.first { (try? run($0, ["-c", "import h5py, numpy"]).status) == 0 }
  }()
  static let h5dump = path("h5dump")
}
