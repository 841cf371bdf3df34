import ClusterModel

/// What collectives need of a network: named frames between workers. The data plane is one.
public protocol Link: Sendable {
  /// Takes a copy of the bytes and returns without waiting for the receiver.
  func send(_ key: FrameKey, to worker: WorkerID, _ bytes: UnsafeRawBufferPointer) throws
  /// Waits for the frame and copies it into `bytes`, which must have its size.
  func receive(_ key: FrameKey, from worker: WorkerID, into bytes: UnsafeMutableRawBufferPointer) throws
}
