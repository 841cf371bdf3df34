import ClusterModel
import Wire

extension DataPlane {
  /// Frames of a peer that shares memory come without being asked for; only when one stays away for so long is
  /// it asked for, in case it travels by socket and waits for room.
  private static let wantDelay = Duration.milliseconds(5)
  private static let spinning = Duration.microseconds(20)

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
    try take(key, from: worker, element: element, byteCount: bytes.count, timeoutSeconds: timeoutSeconds) {
      UnsafeMutableRawBufferPointer(rebasing: bytes[$1..<$1 + $0.count]).copyMemory(from: $0)
      return true
    }
  }

  /// Waits for a frame and hands over its bytes where they lie; see `Link`.
  /// - Throws: ``DataPlaneError``, or what `body` throws.
  public func withReceived(
    _ key: FrameKey, from worker: WorkerID, byteCount: Int,
    _ body: (UnsafeRawBufferPointer, _ offset: Int) throws -> Void
  ) throws {
    var failure: (any Error)?
    try take(key, from: worker, element: .bytes, byteCount: byteCount, timeoutSeconds: nil) { piece, offset in
      do {
        try body(piece, offset)
        return true
      } catch {
        failure = error
        return false
      }
    }
    if let failure { throw failure }
  }

  /// Whether all of a frame is here.
  public func hasArrived(_ key: FrameKey, from worker: WorkerID) -> Bool {
    shared.withLock { $0.mailbox.frames[Mailbox.Slot(sender: worker, key: key)]?.complete == true }
  }

  /// - Parameter body: gets pieces in order until it returns false; then the rest is left where it is.
  private func take(
    _ key: FrameKey, from worker: WorkerID, element: FrameElement, byteCount: Int, timeoutSeconds: Double?,
    _ body: (UnsafeRawBufferPointer, Int) -> Bool
  ) throws(DataPlaneError) {
    let slot = Mailbox.Slot(sender: worker, key: key)
    let (generation, shares) = try shared.withLock { state throws(DataPlaneError) in
      let generation = try state.member(peer: worker).generation
      var frame = state.mailbox.frames[slot] ?? Mailbox.Frame()
      guard !frame.awaited else { throw .alreadyAwaited(key: key, from: worker) }
      frame.awaited = true
      let shares = state.sharedByPeers.contains(worker)
      if !frame.complete && !frame.wanted && !shares {
        frame.wanted = true
        state.commands.append(.want(key, from: worker))
        waker.wake()
      }
      state.mailbox.frames[slot] = frame
      return (generation, shares)
    }
    let frame = AwaitedFrame(
      slot: slot, generation: generation, element: element, byteCount: byteCount,
      timeoutSeconds: timeoutSeconds ?? limits.receiveTimeoutSeconds, shares: shares)
    do {
      try takeChunks(frame, body)
    } catch {
      forget(frame)
      throw error
    }
  }

  private struct AwaitedFrame {
    let slot: Mailbox.Slot
    let generation: Generation
    let element: FrameElement
    let byteCount: Int
    let timeoutSeconds: Double
    let shares: Bool
  }

  private func forget(_ frame: AwaitedFrame) {
    shared.withLock { state in
      guard state.membership?.generation == frame.generation else { return }
      state.mailbox.frames[frame.slot]?.awaited = false
    }
  }

  private func takeChunks(
    _ frame: AwaitedFrame, _ body: (UnsafeRawBufferPointer, Int) -> Bool
  ) throws(DataPlaneError) {
    let (key, worker) = (frame.slot.key, frame.slot.sender)
    let clock = ContinuousClock()
    var lastProgress = clock.now
    var asked = !frame.shares
    var taken = 0
    while true {
      let left = frame.timeoutSeconds - (clock.now - lastProgress) / .seconds(1)
      var pause = Duration.seconds(max(0, min(left, limits.retrySeconds)))
      if !asked { pause = min(pause, Self.wantDelay) }
      guard
        let arrived = try shared.wait(
          atMost: pause, spinning: Self.spinning,
          { state throws(DataPlaneError) in
            try arrivedChunks(frame, &state)
          })
      else {
        guard (clock.now - lastProgress) / .seconds(1) < frame.timeoutSeconds else {
          throw .timedOut(
            key: key, from: worker, seconds: frame.timeoutSeconds, receivedBytes: taken,
            expectedBytes: frame.byteCount)
        }
        try ask(frame, again: asked, from: taken)
        asked = true
        continue
      }
      lastProgress = clock.now
      for chunk in arrived {
        guard try use(chunk, key, worker, body) else { return forget(frame) }
        taken += chunk.count
      }
      if taken == frame.byteCount {
        shared.withLock { state in
          if state.membership?.generation == frame.generation { state.commands.append(.taken(key, from: worker)) }
        }
        waker.wake()
        return
      }
      if arrived.contains(where: \.charged) { waker.wake() }
    }
  }

  /// Asks the sender for a frame, or for the rest of one that it should have sent.
  private func ask(_ frame: AwaitedFrame, again: Bool, from offset: Int) throws(DataPlaneError) {
    let (key, worker) = (frame.slot.key, frame.slot.sender)
    try shared.withLock { state throws(DataPlaneError) in
      _ = try state.member(frame.generation, peer: worker)
      if again {
        state.commands.append(.resend(key, from: worker, offset: offset))
      } else {
        state.mailbox.frames[frame.slot]?.wanted = true
        state.commands.append(.want(key, from: worker))
      }
    }
    waker.wake()
  }

  /// What has come of a frame, out of the mailbox; nil when there is nothing new. The lock is held.
  private func arrivedChunks(
    _ awaited: AwaitedFrame, _ state: inout DataPlaneState
  ) throws(DataPlaneError) -> [Mailbox.Chunk]? {
    let (key, worker) = (awaited.slot.key, awaited.slot.sender)
    _ = try state.member(awaited.generation, peer: worker)
    guard var frame = state.mailbox.frames[awaited.slot] else { return nil }
    if let failure = frame.failure { throw .corrupted(key: key, from: worker, reason: failure) }
    guard let sent = frame.element else { return nil }
    guard sent == awaited.element else {
      throw .elementMismatch(key: key, from: worker, expected: awaited.element, sent: sent)
    }
    guard frame.totalBytes == awaited.byteCount else {
      throw .sizeMismatch(key: key, from: worker, expectedBytes: awaited.byteCount, sentBytes: frame.totalBytes)
    }
    guard !frame.chunks.isEmpty else { return nil }
    let chunks = frame.chunks
    frame.chunks = []
    state.mailbox.frames[awaited.slot] = frame.complete ? nil : frame
    let freed = state.mailbox.release(chunks, of: worker)
    if freed > 0 { state.commands.append(.grant(bytes: freed, to: worker)) }
    return chunks
  }

  /// Whether what lies in a peer's memory is still the frame that it said.
  private func check(
    _ segment: MappedSegment, _ payloadOffset: Int, _ stamp: UInt32, _ key: FrameKey, _ worker: WorkerID
  ) throws(DataPlaneError) {
    guard segment.stamp(payloadOffset: payloadOffset) == stamp else {
      throw .corrupted(key: key, from: worker, reason: "its sender took it back while it was read")
    }
  }

  /// Checks a chunk and hands it over. Runs without the lock: this is where the time goes.
  private func use(
    _ chunk: Mailbox.Chunk, _ key: FrameKey, _ worker: WorkerID, _ body: (UnsafeRawBufferPointer, Int) -> Bool
  ) throws(DataPlaneError) -> Bool {
    switch chunk.content {
    case .region(let segment, let payloadOffset, let stamp):
      try check(segment, payloadOffset, stamp, key, worker)
      guard body(segment.payload(at: payloadOffset, count: chunk.count), chunk.offset) else { return false }
      try check(segment, payloadOffset, stamp, key, worker)
      return true
    case .lent(let pieces, let table, let payloadOffset, let stamp):
      try check(table, payloadOffset, stamp, key, worker)
      var offset = chunk.offset
      for piece in pieces {
        guard body(piece.segment.lent(at: piece.offset, count: piece.count), offset) else { return false }
        offset += piece.count
      }
      try check(table, payloadOffset, stamp, key, worker)
      return true
    case .message(let message, let checksum):
      return try message.withBytes { payload throws(DataPlaneError) in
        guard FrameChecksum.of(payload) == checksum else {
          throw .corrupted(key: key, from: worker, reason: "checksum of the chunk at byte \(chunk.offset)")
        }
        guard !payload.isEmpty, let address = payload.baseAddress else { return true }
        guard UInt(bitPattern: address) % UInt(Mailbox.pieceUnitBytes) != 0 else { return body(payload, chunk.offset) }
        // Short messages lie anywhere in the network's buffer.
        let aligned = UnsafeMutableRawBufferPointer.allocate(byteCount: payload.count, alignment: 64)
        defer { aligned.deallocate() }
        aligned.copyMemory(from: payload)
        return body(UnsafeRawBufferPointer(aligned), chunk.offset)
      }
    }
  }
}
