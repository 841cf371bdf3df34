import ClusterModel
import ControlPlane
import Foundation
import Tracing
import Wire

/// The run's trace (`--trace`): spans of all workers and the coordinator's own steps in one file on one clock,
/// the coordinator's.
///
/// Each worker's clock is compared with ours by questions and answers; its spans wait here until there is an
/// answer. The file is written as steps are committed, so a run that is killed leaves a readable trace.
/// Confined to the coordinator's thread.
final class TraceFile {
  /// Spans of one worker that wait for its clock; more are dropped.
  private static let heldSpans = 65_536
  /// Between two questions.
  static let questionTicks = 5

  let path: String
  private let file: FileHandle
  private let recorder = TraceRecorder(capacity: 1)
  private var text = TraceText()
  private var buffer = ""
  private var clocks: [WorkerID: ClockOffset] = [:]
  private var held: [WorkerID: [TraceSpan]] = [:]
  private var named: Set<WorkerID> = []
  private var dropped: UInt64 = 0
  private static let coordinator = 0
  private static let stepRow = 1
  private static let journalRow = 2

  /// Creates the file, or empties the one that is there.
  /// - Throws: ``CoordinatorError/inputOutput(operation:path:reason:)``
  init(creating path: String) throws(CoordinatorError) {
    self.path = path
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else {
      throw .inputOutput(operation: "write the trace", path: path, reason: String(cString: strerror(errno)))
    }
    file = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
    buffer += text.name(
      process: Self.coordinator, "coordinator", rows: [(Self.stepRow, "steps"), (Self.journalRow, "journal")])
  }

  /// Nanoseconds of the clock that the file is in.
  var now: UInt64 { recorder.now }

  /// Takes what a worker reported.
  /// - Parameter label: the worker's name in the picture.
  func add(_ report: Traced, of worker: WorkerID, label: @autoclosure () -> String) {
    if let clock = report.clock {
      clocks[worker, default: ClockOffset()].add(
        sent: clock.sentNanoseconds, remote: clock.workerNanoseconds, received: now)
    }
    dropped += report.dropped
    if !report.spans.isEmpty {
      let room = max(0, Self.heldSpans - held[worker, default: []].count)
      held[worker, default: []] += report.spans.prefix(room)
      dropped += UInt64(max(0, report.spans.count - room))
    }
    guard let clock = clocks[worker], clock.nanoseconds != nil, let spans = held.removeValue(forKey: worker),
      !spans.isEmpty
    else { return }
    let process = Int(worker.number)
    if named.insert(worker).inserted {
      buffer += text.name(process: process, label(), rows: TraceTrack.allCases.map { ($0.rawValue, $0.name) })
    }
    for span in spans {
      // Checked on arrival: neither number is near the end of its range.
      guard let start = clock.local(span.start) else { continue }
      buffer += text.activity(
        span.activity.name, process: process, row: span.activity.track.rawValue, from: start,
        to: start + span.duration, step: span.step, microbatch: span.microbatch)
    }
    if let faults = report.pageFaults {
      buffer += text.counter("page faults", process: process, at: now, value: faults)
    }
  }

  /// A step from its first order to its record, and how long the journal took of it.
  func addStep(_ step: Step, from start: UInt64?, journalFrom journal: UInt64) {
    let end = now
    if let start {
      buffer += text.activity("step", process: Self.coordinator, row: Self.stepRow, from: start, to: end, step: step)
    }
    buffer += text.activity(
      "commit", process: Self.coordinator, row: Self.journalRow, from: journal, to: end, step: step)
  }

  /// Hands everything so far to the system.
  func flush() throws(CoordinatorError) {
    guard !buffer.isEmpty else { return }
    do { try file.write(contentsOf: Data(buffer.utf8)) } catch {
      throw .inputOutput(operation: "write the trace", path: path, reason: error.localizedDescription)
    }
    buffer.removeAll(keepingCapacity: true)
  }

  /// Writes what is left and ends the JSON.
  /// - Returns: how many spans were lost on the way.
  func close() throws(CoordinatorError) -> UInt64 {
    // A worker that never answered cannot be placed in time.
    for spans in held.values { dropped += UInt64(spans.count) }
    held = [:]
    buffer += text.end()
    try flush()
    return dropped
  }
}

extension CoordinatorLoop {
  /// Does something with the trace, if there is one; a file that cannot be written ends the trace, not the run.
  func tracing(_ body: (TraceFile) throws(CoordinatorError) -> Void) {
    guard let trace else { return }
    do throws(CoordinatorError) { try body(trace) } catch {
      log.warning("the trace ends here: \(error)")
      self.trace = nil
    }
  }

  /// Asks every member what time it is.
  func askForClocks() {
    for member in machine.state.membership.sorted { askForClock(of: member.connection) }
  }

  func askForClock(of connection: Connection) {
    guard let trace, let peer = peers[connection] else { return }
    // A question that does not get through is asked again.
    let question = Envelope(
      run: machine.settings.run, generation: machine.state.generation, sender: .coordinator,
      message: .clockQuestion(sentNanoseconds: trace.now))
    try? server.send(question, to: peer)
  }

  func recordTrace(_ report: Traced, of worker: WorkerID) {
    tracing { trace throws(CoordinatorError) in
      trace.add(report, of: worker, label: Self.traceLabel(worker, machine.state.plan?.place(of: worker)))
    }
  }

  private static func traceLabel(_ worker: WorkerID, _ place: Place?) -> String {
    place.map { "\(worker): replica \($0.replica), stage \($0.stage)" } ?? "\(worker)"
  }

  func closeTrace() {
    tracing { trace throws(CoordinatorError) in
      let dropped = try trace.close()
      log.info("trace written to \(trace.path)\(dropped == 0 ? "" : "; \(dropped) spans were lost")")
    }
    trace = nil
  }
}
