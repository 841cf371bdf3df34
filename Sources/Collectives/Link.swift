import ClusterModel

/// What collectives and boundaries need of a network: named frames between workers. The data plane is one.
///
/// Every call may come from any thread, and several threads may receive different frames at once. `send` in
/// all its forms never waits for a receiver; `receive` and `withReceived` wait for their sender.
public protocol Link: Sendable {
  /// Takes a copy of the bytes and returns without waiting for the receiver.
  func send(_ key: FrameKey, to worker: WorkerID, _ bytes: UnsafeRawBufferPointer) throws

  /// Sends a frame that `fill` writes straight into the memory it travels from: shared with receivers on this
  /// host, the network's own for others. One frame may go to several workers and is written once.
  /// - Parameters:
  ///   - byteCount: size of the frame.
  ///   - fill: called once, before this returns, with `byteCount` bytes of unspecified content, aligned to 64,
  ///     all of which it must write. Nothing is sent when it throws.
  func send(
    _ key: FrameKey, to workers: [WorkerID], byteCount: Int,
    filling fill: (UnsafeMutableRawBufferPointer) throws -> Void
  ) throws

  /// Waits for the frame and copies it into `bytes`, which must have its size.
  func receive(_ key: FrameKey, from worker: WorkerID, into bytes: UnsafeMutableRawBufferPointer) throws

  /// Waits for the frame and hands its bytes over where they lie, in contiguous pieces in ascending order:
  /// one piece from a worker on this host, a piece for each chunk of the network from others, as they arrive.
  ///
  /// - Parameters:
  ///   - byteCount: the size that the frame must have.
  ///   - body: gets a piece and its offset in the frame; the bytes are valid, and unchanged, until it returns.
  ///     Pieces begin at multiples of 4 bytes, in the frame and in memory; an empty frame has none. After an
  ///     error some pieces may have been handed over.
  func withReceived(
    _ key: FrameKey, from worker: WorkerID, byteCount: Int,
    _ body: (UnsafeRawBufferPointer, _ offset: Int) throws -> Void
  ) throws

  /// Whether `withReceived` would not wait for this frame: for a thread with something else to do meanwhile.
  /// False where a link cannot tell.
  func hasArrived(_ key: FrameKey, from worker: WorkerID) -> Bool
}

extension Link {
  public func hasArrived(_ key: FrameKey, from worker: WorkerID) -> Bool { false }

  /// For links without memory to lend: through a buffer.
  public func send(
    _ key: FrameKey, to workers: [WorkerID], byteCount: Int,
    filling fill: (UnsafeMutableRawBufferPointer) throws -> Void
  ) throws {
    let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 64)
    defer { bytes.deallocate() }
    try fill(bytes)
    for worker in workers { try send(key, to: worker, UnsafeRawBufferPointer(bytes)) }
  }
  public func withReceived(
    _ key: FrameKey, from worker: WorkerID, byteCount: Int,
    _ body: (UnsafeRawBufferPointer, _ offset: Int) throws -> Void
  ) throws {
    let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: byteCount, alignment: 64)
    defer { bytes.deallocate() }
    try receive(key, from: worker, into: bytes)
    if byteCount > 0 { try body(UnsafeRawBufferPointer(bytes), 0) }
  }
}
