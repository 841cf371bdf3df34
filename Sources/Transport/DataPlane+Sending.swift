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
    try shared.withLock { state throws(DataPlaneError) in
      for worker in workers { _ = try state.member(generation, peer: worker) }
      for worker in workers {
        let frame = OutboundFrame(key, element, memory, chunkBytes: limits.chunkBytes, checksums: checksums)
        state.commands.append(.send(frame, to: worker))
      }
    }
    waker.wake()
  }
}
