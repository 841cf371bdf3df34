import Foundation
import Wire

/// Bounds of the data plane; all processes of a run use the same.
public struct DataPlaneLimits: Sendable {
  /// Payload of one message.
  public var chunkBytes: Int
  /// What one peer may have sent here that nobody has asked for yet.
  public var windowBytes: Int
  /// Copies that may wait to be sent and taken, over all peers.
  public var sendQueueBytes: Int
  /// Memory that this process shares with peers on its host, and that it maps of each of them; 0 sends
  /// everything through sockets.
  public var sharedBytes: Int
  /// Memory from which this process lends frames where they lie (``DataPlane/lendableMemory(byteCount:)``), and that it
  /// maps of each peer besides; the host's memory by default.
  public var lentBytes: Int
  /// Silence after which `receive` gives up.
  public var receiveTimeoutSeconds: Double
  /// Silence after which a frame that is awaited is asked for again, and a sender introduces itself again:
  /// so that a connection that broke and came back loses nothing.
  public var retrySeconds: Double

  /// - Precondition: `chunkBytes` is a multiple of 4 in 4...1 MiB, and the window holds at least one chunk.
  public init(
    chunkBytes: Int = WireLimits.chunkBytes, windowBytes: Int = 32 << 20, sendQueueBytes: Int = 8 << 30,
    sharedBytes: Int = 1 << 30, lentBytes: Int? = nil, receiveTimeoutSeconds: Double = 300, retrySeconds: Double = 5
  ) {
    precondition((4...WireLimits.chunkBytes).contains(chunkBytes) && chunkBytes % Mailbox.pieceUnitBytes == 0)
    precondition(windowBytes >= chunkBytes + FrameHeader.sizeBytes)
    self.chunkBytes = chunkBytes
    self.windowBytes = windowBytes
    self.sendQueueBytes = sendQueueBytes
    self.sharedBytes = sharedBytes
    self.lentBytes = lentBytes ?? Int(clamping: ProcessInfo.processInfo.physicalMemory)
    self.receiveTimeoutSeconds = receiveTimeoutSeconds
    self.retrySeconds = retrySeconds
  }
}

/// What the data plane has seen since it was made.
public struct DataPlaneCounters: Hashable, Sendable {
  public var sentFrames: UInt64 = 0
  public var sentBytes: UInt64 = 0
  /// Chunks that were kept for a receiver, and their bytes.
  public var receivedChunks: UInt64 = 0
  public var receivedBytes: UInt64 = 0
  /// Frames that came through memory shared with their sender.
  public var receivedPlacedFrames: UInt64 = 0
  /// Frames that were read where their sender keeps them.
  public var receivedLentFrames: UInt64 = 0
  /// Segments of peers that could not be mapped, or were not what they were said to be.
  public var refusedSegments: UInt64 = 0
  /// Bytes of our memory that frames are written into for peers on this host.
  public var sharedBytes: Int = 0
  /// Bytes of peers' memory that is mapped here.
  public var mappedBytes: Int = 0
  /// Messages that are no frames of ours.
  public var garbageMessages: UInt64 = 0
  /// Frames of another run, or of a worker that has no part in the generation.
  public var strangerFrames: UInt64 = 0
  public var staleFrames: UInt64 = 0
  /// Data of a newer generation than ours that nobody here had allowed to be sent.
  public var earlyFrames: UInt64 = 0
  /// Data that its sender was not allowed to send, or that nobody needs any more.
  public var violations: UInt64 = 0
  /// Chunks that did not continue their frame: sent twice, or after others that were lost.
  public var repeatedChunks: UInt64 = 0
  /// Times that a frame was asked for again because nothing came.
  public var resendRequests: UInt64 = 0
  /// Greatest number of bytes that one peer had in the mailbox without being awaited.
  public var heldBytesPeak: Int = 0
  /// Bytes that wait to be sent, or whose receiver has not taken them.
  public var queuedBytes: Int = 0
}
