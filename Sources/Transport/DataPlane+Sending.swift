import ClusterModel
import Foundation
import Wire

extension DataPlane {
  /// Copies the bytes and returns; they are sent when the peer has room.
  /// - Throws: ``DataPlaneError``
  public func send(_ key: FrameKey, to worker: WorkerID, _ bytes: UnsafeRawBufferPointer) throws(DataPlaneError) {
    try send(key, to: worker, element: .bytes, bytes)
  }

  /// As ``send(_:to:_:)``; the receiver must expect the same element type.
  public func send(
    _ key: FrameKey, to worker: WorkerID, element: FrameElement, _ bytes: UnsafeRawBufferPointer
  ) throws(DataPlaneError) {
    let (generation, sharing) = try admit([worker])
    let memory = try memory(bytes.count, shared: !sharing.isEmpty)
    var checksums: [UInt32] = []
    if sharing.isEmpty {
      checksums = stride(from: 0, to: max(bytes.count, 1), by: limits.chunkBytes).map { start in
        let range = start..<min(start + limits.chunkBytes, bytes.count)
        return FrameChecksum.copy(
          UnsafeRawBufferPointer(rebasing: bytes[range]),
          to: UnsafeMutableRawBufferPointer(rebasing: memory.mutableBytes[range]))
      }
    } else if !bytes.isEmpty {
      memory.mutableBytes.copyMemory(from: bytes)
    }
    try enqueue(key, element, memory, to: [worker], generation, checksums)
  }

  /// Sends a frame that `fill` writes into the memory it travels from; see `Link`.
  ///
  /// Workers on this host read it there; for others it is the network's buffer.
  /// - Throws: ``DataPlaneError``, or what `fill` throws: then nothing is sent.
  public func send(
    _ key: FrameKey, to workers: [WorkerID], byteCount: Int,
    filling fill: (UnsafeMutableRawBufferPointer) throws -> Void
  ) throws {
    let (generation, sharing) = try admit(workers)
    let memory = try memory(byteCount, shared: !sharing.isEmpty)
    try fill(memory.mutableBytes)
    // Made here where they are needed, because the I/O thread serves everybody.
    let checksums =
      sharing.count == workers.count && memory.region != nil
      ? [] : OutboundFrame.checksums(memory, chunkBytes: limits.chunkBytes)
    try enqueue(key, .bytes, memory, to: workers, generation, checksums)
  }

  /// Sends a frame whose bytes stay where they are; see `Link`.
  ///
  /// Workers on this host read them there if all of them lie in ``lendableMemory(byteCount:)``; for others they are
  /// copied.
  /// - Throws: ``DataPlaneError``
  public func lend(_ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer]) throws {
    try lend(key, to: workers, pieces, owner: nil)
  }

  /// As ``lend(_:to:_:)``, of bytes that ``takeBackLent()`` does not concern: they do not change while `owner` lives,
  /// which is kept until all workers have taken the frame or the generation has ended; see `Link`.
  /// - Throws: ``DataPlaneError``
  public func lend(
    _ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer], keeping owner: any Sendable
  ) throws { try lend(key, to: workers, pieces, owner: owner) }

  private func lend(
    _ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer], owner: (any Sendable)?
  ) throws {
    let (generation, sharing) = try admit(workers)
    guard !sharing.isEmpty, let extents = extents(of: pieces),
      let table = arena.tableMemory(bytes: ExtentTable.sizeBytes(extents.count), canBeTakenBack: owner == nil)
    else { return try sendCopies(key, to: workers, pieces) }
    let others = workers.filter { !sharing.contains($0) }
    if !others.isEmpty { try sendCopies(key, to: others, pieces) }
    ExtentTable(
      extents.map { ExtentTable.Extent(segment: $0.segment.offer.number, offset: $0.offset, count: $0.count) }
    ).write(into: table.mutableBytes)
    try enqueue(sharing, generation) {
      OutboundFrame(key, lending: extents, keeping: owner, table: table, chunkBytes: limits.chunkBytes)
    }
  }

  /// One frame of several pieces, copied.
  private func sendCopies(_ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer]) throws {
    try send(key, to: workers, byteCount: pieces.reduce(0) { $0 + $1.count }) { bytes in
      var offset = 0
      for piece in pieces {
        UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + piece.count]).copyMemory(from: piece)
        offset += piece.count
      }
    }
  }

  /// Where the pieces lie; nil when they cannot be lent.
  private func extents(of pieces: [UnsafeRawBufferPointer]) -> [LendableRegister.Extent]? {
    var extents: [LendableRegister.Extent] = []
    extents.reserveCapacity(pieces.count)
    for piece in pieces where !piece.isEmpty {
      guard piece.count % Mailbox.pieceUnitBytes == 0, let extent = lendable.extent(of: piece),
        extent.offset % Mailbox.pieceUnitBytes == 0
      else { return nil }
      extents.append(extent)
    }
    return (1...ExtentTable.limit).contains(extents.count) ? extents : nil
  }

  /// Waits until the peers have taken all that was sent: for who wants to close after its last frame.
  /// - Returns: false when that took longer.
  public func drain(timeoutSeconds: Double) -> Bool {
    let clock = ContinuousClock()
    let start = clock.now
    while arena.outstandingBytes > 0 {
      if clock.now - start > .seconds(timeoutSeconds) || failure != nil { return false }
      usleep(500)
    }
    return true
  }

  /// The generation that the call belongs to, and which of the peers read frames in our memory.
  private func admit(_ workers: [WorkerID]) throws(DataPlaneError) -> (Generation, sharing: [WorkerID]) {
    try shared.withLock { state throws(DataPlaneError) in
      var generation: Generation?
      for worker in workers { generation = try state.member(peer: worker).generation }
      guard let generation else { throw .noGeneration }
      return (generation, workers.filter(state.sharingPeers.contains))
    }
  }

  private func memory(_ bytes: Int, shared: Bool) throws(DataPlaneError) -> FrameMemory {
    let queued = arena.outstandingBytes
    guard queued == 0 || queued + bytes <= limits.sendQueueBytes else {
      throw .sendQueueFull(queuedBytes: queued, limitBytes: limits.sendQueueBytes)
    }
    return arena.memory(bytes: bytes, shared: shared)
  }

  private func enqueue(
    _ key: FrameKey, _ element: FrameElement, _ memory: FrameMemory, to workers: [WorkerID], _ generation: Generation,
    _ checksums: [UInt32]
  ) throws(DataPlaneError) {
    try enqueue(workers, generation) {
      OutboundFrame(key, element, memory, chunkBytes: limits.chunkBytes, checksums: checksums)
    }
  }

  /// - Parameter make: a frame of its own for each worker.
  private func enqueue(_ workers: [WorkerID], _ generation: Generation, _ make: () -> OutboundFrame)
    throws(DataPlaneError)
  {
    try shared.withLock { state throws(DataPlaneError) in
      for worker in workers { _ = try state.member(generation, peer: worker) }
      for worker in workers { state.commands.append(.send(make(), to: worker)) }
    }
    waker.wake()
  }
}
