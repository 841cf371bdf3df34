import ClusterModel
import Foundation
import Wire

/// Tensors from worker to worker: named frames, sent without waiting, received by name in any order.
///
/// One I/O thread owns every socket: a ROUTER that is bound, and a DEALER to each peer. Callers on any thread
/// talk to it through a command queue and an eventfd. Between hosts frames travel in chunks of 1 MiB, each with
/// its header (``Wire/FrameHeader``) and checksum. Peers on one host invite each other to read frames where their
/// sender wrote them: then only headers travel, and a frame's bytes stay in the sender's memory until its
/// receiver says that it has taken them. Tensors in ``lendableMemory(byteCount:)`` are not even written into frames: they
/// are read where they lie (``lend(_:to:_:)``). What cannot be shared goes through sockets, without a difference that
/// callers see.
///
/// Order of a generation: `enter` introduces this worker to its peers; a peer grants a window as soon as it
/// has entered the same generation, so frames for one that has not wait here. Receivers read straight from
/// the network's buffers or the sender's memory, and what they wait for needs no grant. A sender keeps a frame until its receiver
/// has it, so a connection that breaks and comes back loses nothing.
public final class DataPlane: Sendable {
  /// The address that peers connect to, with the port that was taken.
  public let endpoint: String
  let limits: DataPlaneLimits
  private let allowPlaintext: Bool
  private let keys: KeyPair?
  let shared: Monitor<DataPlaneState>
  let waker: Waker
  let arena: FrameArena
  let lendable: LendableRegister

  /// Binds and starts the I/O thread.
  /// - Parameters:
  ///   - bind: `tcp://127.0.0.1:*` takes a free port; see ``Endpoint/binding(toward:)``.
  ///   - keys: our key pair: everything through sockets is encrypted, and only peers of the generation get in;
  ///     without it traffic is plain.
  ///   - allowPlaintext: accept that tensors outside loopback and ipc are neither secret nor authentic.
  ///   - note: gets what an operator may want to know, such as that memory cannot be shared; any thread.
  /// - Throws: ``TransportError``, among them `addressInUse` and `plaintextRefused`.
  public init(
    bind: String, keys: KeyPair? = nil, allowPlaintext: Bool = false, limits: DataPlaneLimits = DataPlaneLimits(),
    note: @escaping @Sendable (String) -> Void = { _ in }
  ) throws(TransportError) {
    let address = try Endpoint(bind)
    let waker = try Waker()
    let shared = Monitor(DataPlaneState())
    let arena = FrameArena(
      sharedLimit: limits.sharedBytes, keptLimit: 256 << 20, segmentBytes: min(64 << 20, max(limits.sharedBytes, 1)),
      note: note)
    self.limits = limits
    self.allowPlaintext = allowPlaintext
    self.keys = keys
    self.waker = waker
    self.shared = shared
    self.arena = arena
    lendable = LendableRegister(
      limit: limits.sharedBytes > 0 && HostIdentity.ours != nil ? limits.lentBytes : 0, note: note)
    let thread = Thread {
      ThreadName.set("data plane")
      DataPlaneLoop.run(
        bind: address, keys: keys, allowPlaintext: allowPlaintext, limits: limits, shared: shared, waker: waker,
        arena: arena, note: note)
    }
    thread.start()
    // Binding does not wait for anybody, so neither does this for long.
    let start = shared.wait(atMost: .seconds(60)) { state in
      if case .pending = state.start { return nil as DataPlaneState.Start? }
      return state.start
    }
    switch start {
    case .listening(let endpoint): self.endpoint = endpoint
    case .failed(let error): throw error
    case .pending, nil: throw .library(operation: "starting the data plane", code: 0, message: "no answer in 60 s")
    }
  }

  deinit { close() }

  /// Takes part in a generation: forgets all frames of older ones, ends their calls, clears an interruption.
  /// - Parameters:
  ///   - peers: data endpoints by worker; this worker's own is skipped.
  ///   - publicKeys: of the peers, as the coordinator authenticated them; needed when this plane has keys.
  /// - Throws: ``DataPlaneError``: `superseded` unless it is newer; `transport` for an address that is not to be used.
  public func enter(
    run: RunID, generation: Generation, me: WorkerID, peers: [WorkerID: String],
    publicKeys: [WorkerID: PublicKey] = [:]
  ) throws(DataPlaneError) {
    var endpoints: [WorkerID: Endpoint] = [:]
    for (worker, address) in peers.sorted(by: { $0.key < $1.key }) where worker != me {
      do throws(TransportError) {
        let endpoint = try Endpoint(address)
        if keys == nil {
          try endpoint.requirePlaintextIsFine(allowed: allowPlaintext)
        } else if publicKeys[worker] == nil {
          throw TransportError.keyMissing(address: address)
        }
        endpoints[worker] = endpoint
      } catch {
        throw .transport(error)
      }
    }
    let membership = Membership(
      run: run, tag: RunTag(run), generation: generation, me: me, peers: endpoints,
      publicKeys: keys == nil ? [:] : publicKeys.filter { $0.key != me })
    try shared.change { state throws(DataPlaneError) in
      if state.closed { throw .closed }
      if let failure = state.failure { throw .transport(failure) }
      if let present = state.membership, present.run == run, present.generation >= generation {
        throw .superseded(by: present.generation)
      }
      state.membership = membership
      state.interruption = nil
      state.mailbox = Mailbox()
      state.sharingPeers = []
      state.sharedByPeers = []
      state.commands.append(.enter(membership))
      // Before anybody can lend in the new one.
      arena.takeBackLent()
    }
    waker.wake()
  }

  /// Memory that frames can be lent from (``lend(_:to:_:)``), zero-filled; nil where there is none to be shared.
  public func lendableMemory(byteCount: Int) -> LendableMemory? { lendable.allocate(byteCount: byteCount) }

  /// What was lent in this generation is about to change, though a peer may not have taken it: one that still reads it
  /// gets an error. `enter` does so, too.
  public func takeBackLent() { arena.takeBackLent() }

  /// Ends every `send` and `receive`, those that run and those to come, until the next `enter`.
  public func interrupt(reason: String) {
    shared.change { state in
      if state.interruption == nil { state.interruption = reason }
    }
  }

  /// What ended the I/O thread, if something did: every call then throws it.
  public var failure: TransportError? { shared.withLock { $0.failure } }

  public var counters: DataPlaneCounters {
    var counters = shared.withLock { $0.counters }
    counters.queuedBytes = arena.outstandingBytes
    counters.sharedBytes = arena.sharedBytes
    return counters
  }

  /// Ends every call, drops what is queued and closes all sockets. Returns when the I/O thread has ended.
  ///
  /// Also when the last reference goes: whoever sends must keep the plane until its peers have what they need
  /// (``drain(timeoutSeconds:)``).
  public func close() {
    shared.change { state in
      guard !state.closed else { return }
      state.closed = true
      state.commands.append(.stop)
    }
    waker.wake()
    _ = shared.wait(atMost: .seconds(30)) { $0.ended ? true : nil as Bool? }
  }
}
