import ClusterModel

/// Runs its argument while nobody else may commit or remove checkpoints, or throws
/// ``CheckpointError/notPermitted(reason:)`` without having run it.
public typealias CheckpointFence = (() throws(CheckpointError) -> Void) throws(CheckpointError) -> Void

/// The checkpoints of one run: a directory with one folder per step.
///
/// Every worker writes a part with ``writePart(step:file:tensors:)``; when all have, the coordinator calls
/// ``commit(step:parts:context:)``. Files are immutable once renamed; a folder without a manifest is not a
/// checkpoint. All calls are synchronous and may come from any thread; parts of one step may be written at the
/// same time by different processes under different names.
public struct CheckpointStore: Sendable {
  /// The folder that holds `step-.../`.
  public let directory: String
  /// Bytes that cross memory at a time: state is streamed, never held.
  public static let sliceBytes = 4 << 20
  /// Called at each stage of writing; what it throws stops the work as a crash would, cleaning nothing up.
  package var atStage: (@Sendable (CheckpointStage) throws(CheckpointError) -> Void)?

  /// - Parameter directory: the `checkpoints` folder; it need not exist.
  public init(directory: String) {
    self.directory = directory.count > 1 && directory.hasSuffix("/") ? String(directory.dropLast()) : directory
  }

  /// For a store that nobody else writes.
  public static func unfenced(_ change: () throws(CheckpointError) -> Void) throws(CheckpointError) { try change() }

  /// The folder of a step.
  public func directory(of step: Step) -> String { directory + "/" + CheckpointNames.directory(step) }

  func path(_ step: Step, _ file: String) -> String { directory(of: step) + "/" + file }

  func reached(_ stage: CheckpointStage) throws(CheckpointError) { try atStage?(stage) }

  /// Whether the step has a manifest; says nothing of its content.
  public func isCommitted(_ step: Step) throws(CheckpointError) -> Bool {
    try DiskDirectory.status(path(step, CheckpointNames.manifest)) != nil
  }

  /// The steps that have a folder, committed or not, ascending.
  func steps() throws(CheckpointError) -> [Step] {
    (try DiskDirectory.names(directory) ?? []).compactMap(CheckpointNames.step).sorted()
  }

  /// Makes the store's folder and that of a step, durably.
  func makeDirectory(of step: Step) throws(CheckpointError) {
    try DiskDirectory.make(directory)
    try DiskDirectory.make(directory(of: step))
    try DiskDirectory.flush(directory)
  }

  /// Runs `body` with the memory that bytes are streamed through.
  static func withSlice<Result>(
    _ body: (UnsafeMutableRawBufferPointer) throws(CheckpointError) -> Result
  ) throws(CheckpointError) -> Result {
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: sliceBytes, alignment: 4096)
    defer { buffer.deallocate() }
    return try body(buffer)
  }
}
