import Foundation

/// Memory that frames are written into and travel from: segments shared with peers on this host, and blocks of
/// the heap for others. Both are used again and again, lowest addresses first, so that a steady step allocates
/// nothing and what it touches stays in the caches.
final class FrameArena: Sendable {
  private struct Segment {
    let shared: SharedSegment
    /// Ascending, no two adjacent.
    var free: [Range<Int>]

    mutating func give(back range: Range<Int>) {
      var low = 0
      var high = free.count
      while low < high {
        let middle = (low + high) / 2
        if free[middle].lowerBound < range.lowerBound { low = middle + 1 } else { high = middle }
      }
      let joinsNext = low < free.count && free[low].lowerBound == range.upperBound
      let joinsPrevious = low > 0 && free[low - 1].upperBound == range.lowerBound
      switch (joinsPrevious, joinsNext) {
      case (true, true):
        free[low - 1] = free[low - 1].lowerBound..<free[low].upperBound
        free.remove(at: low)
      case (true, false): free[low - 1] = free[low - 1].lowerBound..<range.upperBound
      case (false, true): free[low] = range.lowerBound..<free[low].upperBound
      case (false, false): free.insert(range, at: low)
      }
    }
  }
  private struct State {
    var segments: [Segment] = []
    var sharedBytes = 0
    var sharingFailure: TransportError?
    /// Free blocks of the heap by their size in bytes.
    var blocks: [Int: [UnsafeMutableRawPointer]] = [:]
    var keptBytes = 0
    var outstandingBytes = 0
    var stamp: UInt32 = 0
    /// Of frames whose bytes lie elsewhere and can be taken back, by their stamp.
    var lent: [UInt32: FrameMemory.Region] = [:]
  }
  // Safe because the pointers in it are memory that nobody uses until it is given out under the lock.
  private final class Guarded: @unchecked Sendable {
    let lock = NSLock()
    /// Held while a segment is made, which takes some milliseconds.
    let growing = NSLock()
    var state = State()
  }
  private let guarded = Guarded()
  /// Most bytes that are shared, and that are kept of the heap.
  private let sharedLimit: Int
  private let keptLimit: Int
  private let segmentBytes: Int
  private let note: @Sendable (String) -> Void

  init(sharedLimit: Int, keptLimit: Int, segmentBytes: Int, note: @escaping @Sendable (String) -> Void) {
    self.sharedLimit = sharedLimit
    self.keptLimit = keptLimit
    self.segmentBytes = segmentBytes
    self.note = note
  }
  deinit { for block in guarded.state.blocks.values.joined() { block.deallocate() } }

  /// Bytes of frames that wait, are being sent, or have not been taken.
  var outstandingBytes: Int { guarded.lock.withLock { guarded.state.outstandingBytes } }
  /// Bytes of all segments.
  var sharedBytes: Int { guarded.lock.withLock { guarded.state.sharedBytes } }

  /// - Parameter shared: asks for memory that peers on this host can map; there may be none left.
  func memory(bytes: Int, shared: Bool) -> FrameMemory {
    if shared && bytes > 0, let place = place(bytes) { return place }
    let capacity = Self.capacity(bytes)
    let reused: UnsafeMutableRawPointer? = guarded.lock.withLock {
      guarded.state.outstandingBytes += bytes
      guard let block = guarded.state.blocks[capacity]?.popLast() else { return nil }
      guarded.state.keptBytes -= capacity
      return block
    }
    return FrameMemory(
      memory: reused ?? .allocate(byteCount: capacity, alignment: 64), count: bytes, region: nil, arena: self)
  }

  /// As `memory`, for the table of a frame whose bytes are lent. Nil when there is no shared memory left.
  /// - Parameter canBeTakenBack: its stamp can be taken back before the frame is.
  func tableMemory(bytes: Int, canBeTakenBack: Bool) -> FrameMemory? {
    let frame = memory(bytes: bytes, shared: true)
    guard let region = frame.region else { return nil }
    if canBeTakenBack { guarded.lock.withLock { guarded.state.lent[region.stamp] = region } }
    return frame
  }

  /// What is lent is about to change: whoever still reads it finds out.
  func takeBackLent() {
    guarded.lock.withLock {
      for region in guarded.state.lent.values { region.segment.setStamp(0, payloadOffset: region.payloadOffset) }
      guarded.state.lent = [:]
    }
  }

  /// A power of two or one and a half of it, so that frames of about one size use each other's blocks.
  private static func capacity(_ bytes: Int) -> Int {
    var power = 64
    while power < bytes { power *= 2 }
    return power / 4 * 3 >= bytes && power > 64 ? power / 4 * 3 : power
  }

  private static func room(_ bytes: Int) -> Int {
    (bytes + SharedSegment.stampBytes + SharedSegment.pageBytes - 1) / SharedSegment.pageBytes * SharedSegment.pageBytes
  }

  private func place(_ bytes: Int) -> FrameMemory? {
    let room = Self.room(bytes)
    if let found = guarded.lock.withLock({ take(room, bytes) }) { return found }
    return guarded.growing.withLock {
      // Somebody else may have made room meanwhile.
      if let found = guarded.lock.withLock({ take(room, bytes) }) { return found }
      let size = max(segmentBytes, room + SharedSegment.pageBytes)
      let (number, left, failed) = guarded.lock.withLock {
        (guarded.state.segments.count, sharedLimit - guarded.state.sharedBytes, guarded.state.sharingFailure != nil)
      }
      guard !failed, size <= left else { return nil }
      do throws(TransportError) {
        let segment = try SharedSegment(number: UInt32(number), sizeBytes: size)
        return guarded.lock.withLock {
          guarded.state.segments.append(Segment(shared: segment, free: [SharedSegment.pageBytes..<size]))
          guarded.state.sharedBytes += size
          return take(room, bytes)
        }
      } catch {
        guarded.lock.withLock { guarded.state.sharingFailure = error }
        note("no more memory can be shared with workers on this host, tensors go through sockets: \(error)")
        return nil
      }
    }
  }

  /// The first place that is large enough. The lock is held.
  private func take(_ room: Int, _ bytes: Int) -> FrameMemory? {
    for index in guarded.state.segments.indices {
      guard let gap = guarded.state.segments[index].free.firstIndex(where: { $0.count >= room }) else { continue }
      let start = guarded.state.segments[index].free[gap].lowerBound
      if guarded.state.segments[index].free[gap].count == room {
        guarded.state.segments[index].free.remove(at: gap)
      } else {
        guarded.state.segments[index].free[gap] =
          start + room..<guarded.state.segments[index].free[gap].upperBound
      }
      guarded.state.outstandingBytes += bytes
      // Zero is no stamp.
      guarded.state.stamp = guarded.state.stamp == .max ? 1 : guarded.state.stamp + 1
      let segment = guarded.state.segments[index].shared
      let offset = start + SharedSegment.stampBytes
      segment.setStamp(guarded.state.stamp, payloadOffset: offset)
      return FrameMemory(
        memory: segment.memory + offset, count: bytes,
        region: FrameMemory.Region(segment: segment, payloadOffset: offset, stamp: guarded.state.stamp), arena: self)
    }
    return nil
  }

  fileprivate func take(back frame: borrowing FrameMemory) {
    if let region = frame.region {
      region.segment.setStamp(0, payloadOffset: region.payloadOffset)
      let start = region.payloadOffset - SharedSegment.stampBytes
      let range = start..<start + Self.room(frame.count)
      guarded.lock.withLock {
        guarded.state.outstandingBytes -= frame.count
        guarded.state.lent[region.stamp] = nil
        guarded.state.segments[Int(region.segment.offer.number)].give(back: range)
      }
      return
    }
    let capacity = Self.capacity(frame.count)
    let kept = guarded.lock.withLock {
      guarded.state.outstandingBytes -= frame.count
      guard guarded.state.keptBytes + capacity <= keptLimit else { return false }
      guarded.state.keptBytes += capacity
      guarded.state.blocks[capacity, default: []].append(frame.memory)
      return true
    }
    if !kept { frame.memory.deallocate() }
  }
}

/// Memory of one frame; goes back to its arena with the last reference, on whatever thread that is.
///
// Safe because it is filled before it is handed to the I/O thread and only read afterwards.
final class FrameMemory: @unchecked Sendable {
  /// Where it lies in shared memory.
  struct Region {
    let segment: SharedSegment
    let payloadOffset: Int
    let stamp: UInt32
  }
  let memory: UnsafeMutableRawPointer
  let count: Int
  let region: Region?
  private let arena: FrameArena

  fileprivate init(memory: UnsafeMutableRawPointer, count: Int, region: Region?, arena: FrameArena) {
    self.memory = memory
    self.count = count
    self.region = region
    self.arena = arena
  }
  deinit { arena.take(back: self) }

  /// Whether it is in shared memory, and not taken back.
  var isPlaced: Bool { region.map { $0.segment.stamp(payloadOffset: $0.payloadOffset) == $0.stamp } ?? false }

  var mutableBytes: UnsafeMutableRawBufferPointer { UnsafeMutableRawBufferPointer(start: memory, count: count) }
  func bytes(_ range: Range<Int>) -> UnsafeRawBufferPointer {
    UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(start: memory, count: count)[range])
  }
}
