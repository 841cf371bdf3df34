import ClusterModel
import Wire

/// Who belongs to the run, over which connection, and when each was last heard.
public struct Membership: Hashable, Sendable {
  public struct Member: Hashable, Sendable {
    public let worker: WorkerID
    private var identity: Identity
    public var lastHeardTick: UInt64
    public var lastProgressTick: UInt64
    /// When an order was last sent to it.
    public fileprivate(set) var lastOrderTick: UInt64 = 0
    public var progress: UInt64 = 0
    public var phase = "joining"
    public var microbatchesPerSecond = 0.0
    public var memoryBytes: UInt64 = 0

    fileprivate init(worker: WorkerID, connection: Connection, hello: Hello, now: UInt64) {
      self.worker = worker
      identity = Identity(connection: connection, hello: hello)
      lastHeardTick = now
      lastProgressTick = now
    }
    public fileprivate(set) var connection: Connection {
      get { identity.connection }
      set { identity = Identity(connection: newValue, hello: identity.hello) }
    }
    public var hello: Hello { identity.hello }
    public var name: String { "\(worker) (\(hello.host), process \(hello.processID))" }
  }

  /// What seldom changes, in one place: members are looked at ten times a second, and there may be thousands of them.
  private final class Identity: Hashable, Sendable {
    let connection: Connection
    let hello: Hello
    init(connection: Connection, hello: Hello) {
      self.connection = connection
      self.hello = hello
    }
    static func == (a: Identity, b: Identity) -> Bool {
      a === b || a.connection == b.connection && a.hello == b.hello
    }
    func hash(into hasher: inout Hasher) {
      hasher.combine(connection)
      hasher.combine(hello)
    }
  }

  /// All members, ascending by ID.
  public private(set) var sorted: [Member] = []
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

  public var count: Int { sorted.count }
  public var workers: Set<WorkerID> { Set(sorted.map(\.worker)) }
  public func worker(at connection: Connection) -> WorkerID? { workerOf[connection] }
  /// Whether a member speaks over its own connection. Asked for every message, so nothing is hashed.
  public func isMember(_ sender: Envelope.Sender, at connection: Connection) -> Bool {
    guard case .worker(let worker) = sender, let index = index(of: worker) else { return false }
    return sorted[index].connection == connection
  }
  public subscript(worker: WorkerID) -> Member? { index(of: worker).map { sorted[$0] } }

  /// Where a member is, or would be.
  private func place(of worker: WorkerID) -> Int {
    // Numbers are mostly given in a row: then it lies as far from the first as their numbers are apart.
    if let first = sorted.first?.worker.number, worker.number >= first {
      let guess = Int(worker.number - first)
      if guess < sorted.count, sorted[guess].worker == worker { return guess }
    }
    var range = 0..<sorted.count
    while !range.isEmpty {
      let middle = (range.lowerBound + range.upperBound) / 2
      if sorted[middle].worker < worker {
        range = middle + 1..<range.upperBound
      } else {
        range = range.lowerBound..<middle
      }
    }
    return range.lowerBound
  }
  private func index(of worker: WorkerID) -> Int? {
    let place = place(of: worker)
    return place < sorted.count && sorted[place].worker == worker ? place : nil
  }

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
    /// Its number is another process's by now: it may come again, as a new one.
    case displaced(String)
  }

  /// Whether the process was a member under its number: what it knows of the run it may have from this coordinator.
  func isAcquainted(_ hello: Hello, _ connection: Connection) -> Bool {
    hello.worker.map { processOf[$0] == ProcessKey(hello, connection) } ?? false
  }

  /// No run has so many workers: whatever a hello claims, there are numbers left for those that come.
  private static let mostNumber: UInt32 = 1 << 31

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
    if let worker = workerOfProcess[process], let index = index(of: worker) {
      workerOf[sorted[index].connection] = nil
      workerOf[connection] = worker
      sorted[index].connection = connection
      sorted[index].lastHeardTick = now
      return .moved(worker)
    }
    if banned.contains(where: { Self.isSameProcess($0, hello) }) {
      return .refused("this machine was found to compute wrongly")
    }
    guard !isEnding else { return .refused("the run is ending") }
    // No plan could name more of them.
    guard sorted.count < WireLimits.workers else { return .refused("the run has \(sorted.count) workers already") }
    if let device, device != hello.deviceFingerprint {
      return .refused(
        "this worker computes on \(hello.deviceFingerprint) but the run was computed on \(device), and its bits would "
          + "differ: join from a host with such a processor, or start a new run")
    }
    if let other = sorted.first, other.hello.deviceFingerprint != hello.deviceFingerprint {
      return .refused(
        "this worker computes on \(hello.deviceFingerprint) but \(other.name) on \(other.hello.deviceFingerprint): "
          + "all workers of a run must agree, or their bits would differ")
    }
    let worker: WorkerID
    if let claimed, claimed.number < Self.mostNumber {
      guard processOf[claimed].map({ $0 == process }) ?? true else {
        return .displaced("\(claimed) is another process by now; join again to get a new number")
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
    sorted.insert(Member(worker: worker, connection: connection, hello: hello, now: now), at: place(of: worker))
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
    guard let index = index(of: worker) else { return }
    sorted[index].lastHeardTick = now
    guard let heartbeat else {
      sorted[index].lastProgressTick = now
      return
    }
    if heartbeat.progress != sorted[index].progress || heartbeat.phase != sorted[index].phase {
      sorted[index].lastProgressTick = now
    }
    sorted[index].progress = heartbeat.progress
    sorted[index].phase = heartbeat.phase
    sorted[index].microbatchesPerSecond = heartbeat.microbatchesPerSecond
    sorted[index].memoryBytes = heartbeat.memoryBytes
  }

  /// When a member was last heard of.
  struct Signs {
    fileprivate var lastHeardTick: UInt64
    fileprivate var lastProgressTick: UInt64
  }
  func signs(of worker: WorkerID) -> Signs? {
    index(of: worker).map {
      Signs(lastHeardTick: sorted[$0].lastHeardTick, lastProgressTick: sorted[$0].lastProgressTick)
    }
  }
  /// As if what came last had not come.
  mutating func restore(_ signs: Signs, of worker: WorkerID) {
    guard let index = index(of: worker) else { return }
    sorted[index].lastHeardTick = signs.lastHeardTick
    sorted[index].lastProgressTick = signs.lastProgressTick
  }

  /// Those that were not heard of since `heard`, or that have made no progress since `progress`; looked for ten times a
  /// second among thousands.
  func quiet(heardBefore heard: UInt64, progressBefore progress: UInt64) -> [Member] {
    sorted.indices.compactMap { index in
      sorted[index].lastHeardTick < heard || sorted[index].lastProgressTick < progress ? sorted[index] : nil
    }
  }

  mutating func alive(_ worker: WorkerID, now: UInt64) {
    if let index = index(of: worker) { sorted[index].lastHeardTick = now }
  }

  mutating func setMemory(_ bytes: UInt64, of worker: WorkerID) {
    if let index = index(of: worker) { sorted[index].memoryBytes = bytes }
  }

  /// An order is on its way to them.
  /// - Returns: the connections of those who are members.
  mutating func ordered(_ workers: [WorkerID], now: UInt64) -> [Connection] {
    workers.compactMap { worker in
      guard let index = index(of: worker) else { return nil }
      sorted[index].lastOrderTick = now
      return sorted[index].connection
    }
  }

  mutating func ban(_ worker: WorkerID) { if let member = self[worker] { banned.append(member.hello) } }

  /// Waiting begins anew for everybody: nobody is late with what has just been asked.
  mutating func restartProgress(now: UInt64) {
    for index in sorted.indices { sorted[index].lastProgressTick = now }
  }

  mutating func remove(_ worker: WorkerID) {
    guard let index = index(of: worker) else { return }
    let member = sorted.remove(at: index)
    workerOf[member.connection] = nil
    workerOfProcess[ProcessKey(member.hello, member.connection)] = nil
  }
}
