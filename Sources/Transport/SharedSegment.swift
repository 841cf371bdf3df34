import CSystem
import ClusterModel
import Foundation
import Synchronization
import Wire

/// Memory of this process that peers on the same host read frames from.
///
/// ```
///  0        token, 16 bytes
///  4096     first page for frames: each begins with 64 bytes that hold its stamp, then its payload
/// ```
/// A frame's stamp is its own as long as the frame is there, so that a reader can see whether what it read was
/// taken away meanwhile.
///
// Safe because which part belongs to whom is decided by the arena, under its lock.
final class SharedSegment: @unchecked Sendable {
  static let pageBytes = 4_096
  static let stampBytes = 64

  let memory: UnsafeMutableRawPointer
  let sizeBytes: Int
  let offer: SegmentOffer

  /// - Throws: ``TransportError/library(operation:code:message:)`` when the system refuses it.
  init(number: UInt32, sizeBytes: Int) throws(TransportError) {
    var descriptor: Int32 = -1
    var address: UnsafeMutableRawPointer?
    let code = csystem_shared_create(sizeBytes, &descriptor, &address)
    guard code == 0, let address else {
      throw .library(operation: "sharing \(sizeBytes >> 20) MiB", code: code, message: String(cString: strerror(code)))
    }
    memory = address
    self.sizeBytes = sizeBytes
    offer = SegmentOffer(
      number: number, process: ProcessInfo.processInfo.processIdentifier, descriptor: descriptor,
      segmentBytes: sizeBytes, tokenHigh: UInt64.random(in: 1 ... .max), tokenLow: UInt64.random(in: 1 ... .max))
    memory.storeBytes(of: offer.tokenHigh, as: UInt64.self)
    memory.storeBytes(of: offer.tokenLow, toByteOffset: 8, as: UInt64.self)
  }
  deinit {
    csystem_shared_unmap(memory, sizeBytes)
    // No frame names it any more, but peers may have it mapped until they enter another generation.
    csystem_shared_discard(offer.descriptor, sizeBytes)
    close(offer.descriptor)
  }

  func stamp(payloadOffset: Int) -> UInt32 {
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return memory.load(fromByteOffset: payloadOffset - Self.stampBytes, as: UInt32.self)
  }

  func setStamp(_ stamp: UInt32, payloadOffset: Int) {
    // Before anything of the next frame is written, and after everything of the last one was read.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    memory.storeBytes(of: stamp, toByteOffset: payloadOffset - Self.stampBytes, as: UInt32.self)
    atomicMemoryFence(ordering: .sequentiallyConsistent)
  }
}

/// A peer's segment, mapped to be read.
///
// Safe because it is only read, and what its owner does to it can change bytes but not take them away.
final class MappedSegment: @unchecked Sendable {
  let offer: SegmentOffer
  private let memory: UnsafeRawPointer

  /// - Throws: ``TransportError/library(operation:code:message:)`` when it is not what was offered.
  init(_ offer: SegmentOffer) throws(TransportError) {
    func refused(_ code: Int32, _ reason: String) -> TransportError {
      .library(operation: "mapping \(offer.segmentBytes >> 20) MiB of a peer", code: code, message: reason)
    }
    guard offer.segmentBytes >= 2 * SharedSegment.pageBytes else { throw refused(EINVAL, "too small") }
    var address: UnsafeRawPointer?
    let code = csystem_shared_open(offer.process, offer.descriptor, offer.segmentBytes, &address)
    guard code == 0, let address else { throw refused(code, String(cString: strerror(code))) }
    guard address.load(as: UInt64.self) == offer.tokenHigh,
      address.load(fromByteOffset: 8, as: UInt64.self) == offer.tokenLow
    else {
      csystem_shared_unmap(address, offer.segmentBytes)
      throw refused(EPERM, "another process's memory")
    }
    memory = address
    self.offer = offer
  }
  deinit { csystem_shared_unmap(memory, offer.segmentBytes) }

  /// Whether so many bytes can lie there. The numbers are a peer's: at most ``Wire/WireLimits/count``.
  func holds(payloadOffset: Int, count: Int) -> Bool {
    payloadOffset >= SharedSegment.pageBytes + SharedSegment.stampBytes && payloadOffset % SharedSegment.stampBytes == 0
      && payloadOffset <= offer.segmentBytes && count <= offer.segmentBytes - payloadOffset
  }
  /// Whether lent bytes can lie there: after the page with the token.
  func holds(lentAt offset: Int, count: Int) -> Bool {
    offset >= SharedSegment.pageBytes && count >= 0 && offset <= offer.segmentBytes
      && count <= offer.segmentBytes - offset
  }
  /// - Precondition: `holds`.
  func lent(at offset: Int, count: Int) -> UnsafeRawBufferPointer {
    precondition(holds(lentAt: offset, count: count), "outside the segment")
    return UnsafeRawBufferPointer(start: memory + offset, count: count)
  }
  /// - Precondition: `holds`.
  func payload(at offset: Int, count: Int) -> UnsafeRawBufferPointer {
    precondition(holds(payloadOffset: offset, count: count), "outside the segment")
    return UnsafeRawBufferPointer(start: memory + offset, count: count)
  }
  /// The stamp now: equal to the frame's before and after its bytes are used.
  func stamp(payloadOffset: Int) -> UInt32 {
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return memory.load(fromByteOffset: payloadOffset - SharedSegment.stampBytes, as: UInt32.self)
  }
}

extension HostIdentity {
  /// This process's, or nil where memory cannot be shared.
  static let ours: HostIdentity? = {
    let namespace = csystem_process_namespace()
    guard namespace != 0,
      let boot = try? String(contentsOfFile: "/proc/sys/kernel/random/boot_id", encoding: .utf8), !boot.isEmpty
    else { return nil }
    // Any text that names both: the tag is a hash of it.
    let tag = RunTag(RunID("processes \(namespace) of boot \(boot)"))
    return HostIdentity(high: tag.high, low: tag.low)
  }()
}
