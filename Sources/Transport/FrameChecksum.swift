import CSystem

/// CRC-32C (RFC 3720, appendix B.4), by the processor's instruction where it has one.
public enum FrameChecksum {
  public static func of(_ bytes: UnsafeRawBufferPointer) -> UInt32 { csystem_crc32c(0, bytes.baseAddress, bytes.count) }
  /// The same by table: what the fast one is compared with.
  package static func portable(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    csystem_crc32c_portable(0, bytes.baseAddress, bytes.count)
  }
}
