import ClusterModel
import Wire

/// Who belongs to the run, over which connection, and when each was last heard.
public struct Membership: Hashable, Sendable {
  public struct Member: Hashable, Sendable {
    public var worker: WorkerID
    public var connection: Connection
    public var hello: Hello
    public var lastHeardTick: UInt64
    public var lastProgressTick: UInt64
    public var progress: UInt64 = 0
    public var phase = "joining"
    public var microbatchesPerSecond = 0.0
    public var memoryBytes: UInt64 = 0
    public var name: String { "\(worker) (\(hello.host), process \(hello.processID))" }
  }

  public private(set) var members: [WorkerID: Member] = [:]
  /// All members, ascending.
  private var ids: [WorkerID] = []
  private var workerOf: [Connection: WorkerID] = [:]
  private var workerOfProcess: [ProcessKey: WorkerID] = [:]
  private var nextNumber: UInt32
  /// Every number that a process was let in under, whatever became of it.
  private var processOf: [WorkerID: ProcessKey] = [:]
  /// Processes that are not let in again.
  private var banned: [Hello] = []

  /// What the run was computed on so far; nil when the first member defines it.
  private let device: String?

  public init(nextWorker: UInt32, device: String? = nil) {
    nextNumber = nextWorker
    self.device = device
  }

  /// All members, by ID.
  public var sorted: [Member] { ids.compactMap { members[$0] } }
  public var count: Int { members.count }
  public func worker(at connection: Connection) -> WorkerID? { workerOf[connection] }
  public subscript(worker: WorkerID) -> Member? { members[worker] }

  public enum HelloVerdict: Hashable, Sendable {
    /// A new member.
    case admitted(WorkerID)
    /// A member asks again: its welcome may have been lost.
    case again(WorkerID)
    /// The process was given another number by a hello that was long on its way: that member is nobody, and the hello
    /// is to be looked at again without it.
    case phantom(WorkerID)
    /// A member came over another connection.
    case moved(WorkerID)
    case refused(String)
  }

  /// Whether the process was a member under its number: what it knows of the run it may have from this coordinator.
  func isAcquainted(_ hello: Hello, _ connection: Connection) -> Bool {
    hello.worker.map { processOf[$0] == ProcessKey(hello, connection) } ?? false
  }

  /// Decides about a hello.
  ///
  /// - Parameters:
  ///   - trusted: whether the envelope named this run, so that a worker ID in it can be ours.
  ///   - isEnding: nobody new is let in.
  mutating func hello(_ hello: Hello, from connection: Connection, trusted: Bool, isEnding: Bool, now: UInt64)
    -> HelloVerdict
  {
    guard hello.protocolVersion == Hello.currentProtocol else {
      return .refused(
        "this coordinator speaks protocol \(Hello.currentProtocol), the worker \(hello.protocolVersion): "
          + "install the same version of transfusion on all hosts")
    }
    // What a hello says anybody can say: another key is another worker, and takes over nothing.
    let process = ProcessKey(hello, connection)
    let claimed = trusted ? hello.worker : nil
    if let known = workerOf[connection] ?? workerOfProcess[process], let claimed, claimed != known {
      return .phantom(known)
    }
    if let known = workerOf[connection] { return .again(known) }
    if let worker = workerOfProcess[process], let old = members[worker] {
      workerOf[old.connection] = nil
      workerOf[connection] = old.worker
      members[old.worker]?.connection = connection
      members[old.worker]?.lastHeardTick = now
      return .moved(old.worker)
    }
    if banned.contains(where: { Self.isSameProcess($0, hello) }) {
      return .refused("this machine was found to compute wrongly")
    }
    guard !isEnding else { return .refused("the run is ending") }
    if let device, device != hello.deviceFingerprint {
      return .refused(
        "this worker computes on \(hello.deviceFingerprint) but the run was computed on \(device), and its bits would "
          + "differ: join from a host with such a processor, or start a new run")
    }
    if let other = ids.first.flatMap({ members[$0] }), other.hello.deviceFingerprint != hello.deviceFingerprint {
      return .refused(
        "this worker computes on \(hello.deviceFingerprint) but \(other.name) on \(other.hello.deviceFingerprint): "
          + "all workers of a run must agree, or their bits would differ")
    }
    let worker: WorkerID
    if let claimed, claimed.number < UInt32.max {
      guard processOf[claimed].map({ $0 == process }) ?? true else {
        return .refused("\(claimed) is another process; join without an ID to get a new one")
      }
      worker = claimed
      nextNumber = max(nextNumber, claimed.number + 1)
    } else {
      worker = WorkerID(nextNumber)
      nextNumber += 1
    }
    workerOf[connection] = worker
    workerOfProcess[process] = worker
    processOf[worker] = process
    // Nearly always at the end.
    ids.insert(worker, at: (ids.lastIndex { $0 < worker } ?? -1) + 1)
    members[worker] = Member(
      worker: worker, connection: connection, hello: hello, lastHeardTick: now, lastProgressTick: now)
    return .admitted(worker)
  }

  /// A process as its hello tells, with the key that it proved to hold.
  private struct ProcessKey: Hashable {
    var host: String
    var processID: Int32
    var dataEndpoint: String
    var publicKey: [UInt8]
    init(_ hello: Hello, _ connection: Connection) {
      host = hello.host
      processID = hello.processID
      dataEndpoint = hello.dataEndpoint
      publicKey = connection.publicKey
    }
  }

  /// The data endpoint tells processes of equal host name and process ID (containers) apart.
  private static func isSameProcess(_ a: Hello, _ b: Hello) -> Bool {
    a.host == b.host && a.processID == b.processID && a.dataEndpoint == b.dataEndpoint
  }

  /// Any accepted message shows life; one that is not a heartbeat shows progress too.
  mutating func heard(_ worker: WorkerID, heartbeat: Heartbeat?, now: UInt64) {
    guard var member = members[worker] else { return }
    member.lastHeardTick = now
    if let heartbeat {
      if heartbeat.progress != member.progress || heartbeat.phase != member.phase { member.lastProgressTick = now }
      member.progress = heartbeat.progress
      member.phase = heartbeat.phase
      member.microbatchesPerSecond = heartbeat.microbatchesPerSecond
      member.memoryBytes = heartbeat.memoryBytes
    } else {
      member.lastProgressTick = now
    }
    members[worker] = member
  }

  /// Puts a member back as it was.
  mutating func restore(_ member: Member) {
    guard members[member.worker] != nil else { return }
    members[member.worker] = member
  }

  mutating func alive(_ worker: WorkerID, now: UInt64) { members[worker]?.lastHeardTick = now }

  mutating func ban(_ worker: WorkerID) { if let member = members[worker] { banned.append(member.hello) } }

  mutating func setMemory(_ bytes: UInt64, of worker: WorkerID) { members[worker]?.memoryBytes = bytes }

  /// Waiting begins anew for everybody: nobody is late with what has just been asked.
  mutating func restartProgress(now: UInt64) {
    for worker in members.keys { members[worker]?.lastProgressTick = now }
  }

  mutating func remove(_ worker: WorkerID) {
    guard let member = members.removeValue(forKey: worker) else { return }
    workerOf[member.connection] = nil
    workerOfProcess[ProcessKey(member.hello, member.connection)] = nil
    ids.removeAll { $0 == worker }
  }
}
