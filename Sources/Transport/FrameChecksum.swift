import CSystem

/// CRC-32C (RFC 3720, appendix B.4), by the processor's instruction where it has one.
public enum FrameChecksum {
  public static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 { csystem_crc32c(0, bytes.baseAddress, bytes.count) }
  /// Copies and gives the checksum of what was copied, block by block while it is in the cache.
  /// - Precondition: equal sizes.
  static func copy(_ source: UnsafeRawBufferPointer, to destination: UnsafeMutableRawBufferPointer) -> UInt32 {
    precondition(source.count == destination.count)
    guard let from = source.baseAddress, let to = destination.baseAddress else { return of(source) }
    var checksum: UInt32 = 0
    for start in stride(from: 0, to: source.count, by: 1 << 15) {
      let count = min(1 << 15, source.count - start)
      (to + start).copyMemory(from: from + start, byteCount: count)
      checksum = csystem_crc32c(checksum, to + start, count)
    }
    return checksum
  }
  /// The same by table: what the fast one is compared with.
  package static func portable(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    csystem_crc32c_portable(0, bytes.baseAddress, bytes.count)
  }
}
