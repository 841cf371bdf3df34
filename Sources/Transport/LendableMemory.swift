import CSystem
import Foundation
import Wire

/// A piece of memory that frames can be lent from: peers on this host read them where they lie.
///
/// It is given back with its last reference. Frames that are lent from it keep it until they are taken, and peers that
/// have it mapped find zeros there afterwards.
public final class LendableMemory: Sendable {
  let segment: SharedSegment
  public let byteCount: Int
  private let register: LendableRegister

  fileprivate init(_ segment: SharedSegment, byteCount: Int, _ register: LendableRegister) {
    self.segment = segment
    self.byteCount = byteCount
    self.register = register
  }
  deinit { register.remove(segment) }

  /// Aligned to a page; ``byteCount`` bytes.
  public var address: UnsafeMutableRawPointer { segment.memory + SharedSegment.pageBytes }
}

/// All lendable memory of a data plane, to find what is lent by its address.
final class LendableRegister: Sendable {
  /// Where bytes lie in a segment.
  struct Extent {
    var segment: SharedSegment
    var offset: Int
    var count: Int
  }
  private struct State {
    /// A few for each stage that is held.
    var segments: [SharedSegment] = []
    var next = LendableRegister.firstNumber
    var bytes = 0
  }
  // Safe because all of it is used under the lock.
  private final class Guarded: @unchecked Sendable {
    let lock = NSLock()
    var state = State()
  }
  private let guarded = Guarded()
  private let limit: Int
  private let note: @Sendable (String) -> Void

  /// Segments of the arena have the numbers below. None is given twice: a peer knows what it has mapped by its number.
  static let firstNumber: UInt32 = 1 << 16

  init(limit: Int, note: @escaping @Sendable (String) -> Void) {
    self.limit = limit
    self.note = note
  }

  /// Zero-filled memory; nil when there is none left to be shared.
  func allocate(byteCount: Int) -> LendableMemory? {
    let page = SharedSegment.pageBytes
    let (size, overflow) = byteCount.addingReportingOverflow(2 * page - 1)
    guard byteCount > 0, !overflow else { return nil }
    let sizeBytes = size / page * page
    let number: UInt32? = guarded.lock.withLock {
      guard guarded.state.next <= SegmentOffer.numberLimit, sizeBytes <= limit - guarded.state.bytes else {
        return nil
      }
      defer { guarded.state.next += 1 }
      return guarded.state.next
    }
    guard let number else { return nil }
    do throws(TransportError) {
      let segment = try SharedSegment(number: number, sizeBytes: sizeBytes)
      guarded.lock.withLock {
        guarded.state.segments.append(segment)
        guarded.state.bytes += sizeBytes
      }
      return LendableMemory(segment, byteCount: byteCount, self)
    } catch {
      note("tensors cannot be shared with workers on this host where they lie, they are copied: \(error)")
      return nil
    }
  }

  fileprivate func remove(_ segment: SharedSegment) {
    guarded.lock.withLock {
      guard let index = guarded.state.segments.firstIndex(where: { $0 === segment }) else { return }
      guarded.state.segments.remove(at: index)
      guarded.state.bytes -= segment.sizeBytes
    }
  }

  /// Where bytes lie; nil unless they lie in one piece of lendable memory.
  func extent(of bytes: UnsafeRawBufferPointer) -> Extent? {
    guard let start = bytes.baseAddress else { return nil }
    return guarded.lock.withLock {
      for segment in guarded.state.segments {
        let offset = start - UnsafeRawPointer(segment.memory)
        guard offset >= SharedSegment.pageBytes, bytes.count <= segment.sizeBytes - offset else { continue }
        return Extent(segment: segment, offset: offset, count: bytes.count)
      }
      return nil
    }
  }
}
