import ClusterModel
import Foundation
import Wire

/// Tensors from worker to worker: named frames, sent without waiting, received by name in any order.
///
/// One I/O thread owns every socket: a ROUTER that is bound, and a DEALER to each peer. Callers on any thread
/// talk to it through a command queue and an eventfd. Frames travel in chunks of 1 MiB, each with its header
/// (``Wire/FrameHeader``) and checksum.
///
/// Order of a generation: `enter` introduces this worker to its peers; a peer grants a window as soon as it
/// has entered the same generation, so frames for one that has not wait here. Receivers copy straight from
/// the network's buffers, and what they wait for needs no grant. A sender keeps a frame until its receiver
/// has it, so a connection that breaks and comes back loses nothing.
public final class DataPlane: Sendable {
  /// The address that peers connect to, with the port that was taken.
  public let endpoint: String
  private let limits: DataPlaneLimits
  private let allowPlaintext: Bool
  private let shared: Monitor<DataPlaneState>
  private let waker: Waker
  private let pool: BufferPool

  /// Binds and starts the I/O thread.
  /// - Parameters:
  ///   - bind: `tcp://127.0.0.1:*` takes a free port; see ``Endpoint/binding(toward:)``.
  ///   - allowPlaintext: accept that tensors outside loopback and ipc are neither secret nor authentic.
  /// - Throws: ``TransportError``, among them `addressInUse` and `plaintextRefused`.
  public init(
    bind: String, allowPlaintext: Bool = false, limits: DataPlaneLimits = DataPlaneLimits()
  ) throws(TransportError) {
    let address = try Endpoint(bind)
    let waker = try Waker()
    let shared = Monitor(DataPlaneState())
    let pool = BufferPool(blockBytes: limits.chunkBytes, keptBytes: 64 << 20)
    self.limits = limits
    self.allowPlaintext = allowPlaintext
    self.waker = waker
    self.shared = shared
    self.pool = pool
    let thread = Thread {
      DataPlaneLoop.run(
        bind: address, allowPlaintext: allowPlaintext, limits: limits, shared: shared, waker: waker)
    }
    thread.name = "data plane"
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
  /// - Throws: ``DataPlaneError``: `superseded` unless it is newer; `transport` for an address that is not to be used.
  public func enter(
    run: RunID, generation: Generation, me: WorkerID, peers: [WorkerID: String]
  ) throws(DataPlaneError) {
    var endpoints: [WorkerID: Endpoint] = [:]
    for (worker, address) in peers.sorted(by: { $0.key < $1.key }) where worker != me {
      do throws(TransportError) {
        let endpoint = try Endpoint(address)
        try endpoint.requirePlaintextIsFine(allowed: allowPlaintext)
        endpoints[worker] = endpoint
      } catch {
        throw .transport(error)
      }
    }
    let membership = Membership(run: run, tag: RunTag(run), generation: generation, me: me, peers: endpoints)
    try shared.change { state throws(DataPlaneError) in
      if state.closed { throw .closed }
      if let failure = state.failure { throw .transport(failure) }
      if let present = state.membership, present.run == run, present.generation >= generation {
        throw .superseded(by: present.generation)
      }
      state.membership = membership
      state.interruption = nil
      state.mailbox = Mailbox()
      state.commands.append(.enter(membership))
    }
    waker.wake()
  }

  /// Copies the bytes and returns; they are sent when the peer has room.
  /// - Throws: ``DataPlaneError``
  public func send(_ key: FrameKey, to worker: WorkerID, _ bytes: UnsafeRawBufferPointer) throws(DataPlaneError) {
    try send(key, to: worker, element: .bytes, bytes)
  }

  /// As ``send(_:to:_:)``; the receiver must expect the same element type.
  public func send(
    _ key: FrameKey, to worker: WorkerID, element: FrameElement, _ bytes: UnsafeRawBufferPointer
  ) throws(DataPlaneError) {
    let generation = try shared.withLock { state throws(DataPlaneError) in
      try state.member(peer: worker).generation
    }
    let queued = pool.outstandingBytes
    guard queued == 0 || queued + bytes.count <= limits.sendQueueBytes else {
      throw .sendQueueFull(queuedBytes: queued, limitBytes: limits.sendQueueBytes)
    }
    let frame = OutboundFrame(key, element, copying: bytes, pool: pool)
    try shared.withLock { state throws(DataPlaneError) in
      _ = try state.member(generation, peer: worker)
      state.commands.append(.send(frame, to: worker))
    }
    waker.wake()
  }

  /// Waits for a frame and copies it into `bytes`, which must have its size.
  /// - Throws: ``DataPlaneError``; after a failure the buffer's contents are undefined.
  public func receive(
    _ key: FrameKey, from worker: WorkerID, into bytes: UnsafeMutableRawBufferPointer
  ) throws(DataPlaneError) {
    try receive(key, from: worker, element: .bytes, into: bytes)
  }

  /// As ``receive(_:from:into:)``, checking the element type; the time is that without any progress.
  public func receive(
    _ key: FrameKey, from worker: WorkerID, element: FrameElement, into bytes: UnsafeMutableRawBufferPointer,
    timeoutSeconds: Double? = nil
  ) throws(DataPlaneError) {
    let slot = Mailbox.Slot(sender: worker, key: key)
    let generation = try shared.withLock { state throws(DataPlaneError) in
      let generation = try state.member(peer: worker).generation
      var frame = state.mailbox.frames[slot] ?? Mailbox.Frame()
      guard !frame.awaited else { throw .alreadyAwaited(key: key, from: worker) }
      frame.awaited = true
      if !frame.complete && !frame.wanted {
        frame.wanted = true
        state.commands.append(.want(key, from: worker))
        waker.wake()
      }
      state.mailbox.frames[slot] = frame
      return generation
    }
    var copied = 0
    do {
      try copyChunks(slot, generation, element, bytes, timeoutSeconds ?? limits.receiveTimeoutSeconds, &copied)
    } catch {
      shared.withLock { state in
        guard state.membership?.generation == generation else { return }
        state.mailbox.frames[slot]?.awaited = false
      }
      throw error
    }
  }

  private func copyChunks(
    _ slot: Mailbox.Slot, _ generation: Generation, _ element: FrameElement, _ bytes: UnsafeMutableRawBufferPointer,
    _ timeoutSeconds: Double, _ copied: inout Int
  ) throws(DataPlaneError) {
    let (key, worker) = (slot.key, slot.sender)
    let clock = ContinuousClock()
    var lastProgress = clock.now
    while true {
      let already = copied
      let left = timeoutSeconds - (clock.now - lastProgress) / .seconds(1)
      let arrived = try shared.wait(
        atMost: .seconds(max(0, min(left, limits.retrySeconds)))
      ) { state throws(DataPlaneError) in
        _ = try state.member(generation, peer: worker)
        guard var frame = state.mailbox.frames[slot] else { return nil as [Mailbox.Chunk]? }
        if let failure = frame.failure { throw .corrupted(key: key, from: worker, reason: failure) }
        guard let sent = frame.element else { return nil }
        guard sent == element else { throw .elementMismatch(key: key, from: worker, expected: element, sent: sent) }
        guard frame.totalBytes == bytes.count else {
          throw .sizeMismatch(key: key, from: worker, expectedBytes: bytes.count, sentBytes: frame.totalBytes)
        }
        guard !frame.chunks.isEmpty else { return nil }
        let chunks = frame.chunks
        frame.chunks = []
        if frame.complete { state.commands.append(.taken(key, from: worker)) }
        state.mailbox.frames[slot] = frame.complete ? nil : frame
        let freed = state.mailbox.release(chunks, of: worker)
        if freed > 0 { state.commands.append(.grant(bytes: freed, to: worker)) }
        return chunks
      }
      guard let arrived else {
        guard (clock.now - lastProgress) / .seconds(1) < timeoutSeconds else {
          throw .timedOut(
            key: key, from: worker, seconds: timeoutSeconds, receivedBytes: already, expectedBytes: bytes.count)
        }
        shared.withLock { $0.commands.append(.resend(key, from: worker, offset: already)) }
        waker.wake()
        continue
      }
      lastProgress = clock.now
      if copied + arrived.reduce(0, { $0 + $1.count }) == bytes.count || arrived.contains(where: \.charged) {
        waker.wake()
      }
      for chunk in arrived {
        let intact = chunk.message.withBytes { payload in
          guard FrameChecksum.of(payload) == chunk.checksum else { return false }
          if !payload.isEmpty {
            UnsafeMutableRawBufferPointer(rebasing: bytes[chunk.offset..<chunk.offset + chunk.count])
              .copyMemory(from: payload)
          }
          return true
        }
        guard intact else {
          throw .corrupted(key: key, from: worker, reason: "checksum of the chunk at byte \(chunk.offset)")
        }
        copied += chunk.count
      }
      if copied == bytes.count { return }
    }
  }

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
    counters.queuedBytes = pool.outstandingBytes
    return counters
  }

  /// Ends every call, drops what is queued and closes all sockets. Returns when the I/O thread has ended.
  ///
  /// Also when the last reference goes: whoever sends must keep the plane until its peers have what they need.
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
