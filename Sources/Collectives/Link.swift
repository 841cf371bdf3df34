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

  /// Sends a frame whose bytes stay where they are, if they lie in memory that all its receivers read; otherwise, and
  /// for links that have no such memory, they are copied.
  /// - Parameter pieces: the frame's bytes, in order, each of a multiple of 4. They must not change until all receivers
  ///   have taken the frame, which the caller knows by what they do next, or the generation has ended.
  func lend(_ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer]) throws

  /// As ``lend(_:to:_:)``, of bytes that do not change while `owner` lives: it is kept until all receivers have taken the
  /// frame, or the generation has ended.
  func lend(_ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer], keeping owner: any Sendable)
    throws

  /// Waits for the frame and copies it into `bytes`, which must have its size.
  func receive(_ key: FrameKey, from worker: WorkerID, into bytes: UnsafeMutableRawBufferPointer) throws

  /// Waits for the frame and hands its bytes over where they lie, in contiguous pieces in ascending order:
  /// one piece from a worker on this host or as many as were lent, a piece for each chunk of the network from others,
  /// as they arrive.
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

  public func lend(_ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer]) throws {
    try send(key, to: workers, byteCount: pieces.reduce(0) { $0 + $1.count }) { bytes in
      var offset = 0
      for piece in pieces {
        UnsafeMutableRawBufferPointer(rebasing: bytes[offset..<offset + piece.count]).copyMemory(from: piece)
        offset += piece.count
      }
    }
  }

  public func lend(
    _ key: FrameKey, to workers: [WorkerID], _ pieces: [UnsafeRawBufferPointer], keeping owner: any Sendable
  ) throws { try lend(key, to: workers, pieces) }

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
