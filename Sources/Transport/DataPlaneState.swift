import ClusterModel
import Wire

/// Who takes part in the present generation.
struct Membership: Sendable {
  let run: RunID
  let tag: RunTag
  let generation: Generation
  let me: WorkerID
  let peers: [WorkerID: Endpoint]
  /// Of each peer, when traffic is encrypted; empty otherwise.
  let publicKeys: [WorkerID: PublicKey]

  /// Whose connections a worker's data socket takes: each peer makes one in each generation, and the one of the
  /// generation before may linger.
  var admissions: [PublicKey: AdmittedKeys.Admission] {
    var admissions: [PublicKey: AdmittedKeys.Admission] = [:]
    for key in publicKeys.values {
      admissions[key, default: .init(role: .worker, connections: 0)].connections += 4
    }
    return admissions
  }
}

/// What the callers' threads ask of the I/O thread.
enum DataPlaneCommand: Sendable {
  case enter(Membership)
  case send(OutboundFrame, to: WorkerID)
  case want(FrameKey, from: WorkerID)
  case resend(FrameKey, from: WorkerID, offset: Int)
  case taken(FrameKey, from: WorkerID)
  case grant(bytes: Int, to: WorkerID)
  case stop
}

/// What callers and the I/O thread share, under one lock.
struct DataPlaneState {
  enum Start {
    case pending
    case listening(String)
    case failed(TransportError)
  }
  var start = Start.pending
  var commands: [DataPlaneCommand] = []
  var membership: Membership?
  var interruption: String?
  /// What ended the I/O thread, other than being told to.
  var failure: TransportError?
  var mailbox = Mailbox()
  /// Peers of this generation that read frames in our memory, and those whose frames we read in theirs.
  var sharingPeers: Set<WorkerID> = []
  var sharedByPeers: Set<WorkerID> = []
  var counters = DataPlaneCounters()
  var closed = false
  var ended = false

  /// The membership that a call belongs to: checked on entry and whenever the lock is taken again.
  func member(_ generation: Generation? = nil, peer: WorkerID) throws(DataPlaneError) -> Membership {
    if closed { throw .closed }
    if let failure { throw .transport(failure) }
    guard let membership else { throw .noGeneration }
    if let generation, membership.generation != generation { throw .superseded(by: membership.generation) }
    if let interruption { throw .interrupted(reason: interruption) }
    guard membership.peers[peer] != nil else { throw .unknownPeer(peer, membership.generation) }
    return membership
  }
}
