import ClusterModel

/// The 16 bytes by which data frames name their run.
///
/// A run ID of 32 hexadecimal digits is its own bytes; any other text is hashed (FNV-1a, two 64-bit lanes),
/// so that frames have a fixed layout whatever the ID is.
public struct RunTag: Hashable, Sendable {
  public let high: UInt64
  public let low: UInt64

  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  public init(_ run: RunID) {
    let text = run.text.utf8
    if text.count == 32, text.allSatisfy(Self.isHexadecimal),
      let high = UInt64(run.text.prefix(16), radix: 16), let low = UInt64(run.text.suffix(16), radix: 16)
    {
      self.init(high: high, low: low)
      return
    }
    self.init(high: Self.hash(text, basis: 0xcbf2_9ce4_8422_2325), low: Self.hash(text, basis: 0x6c62_272e_07bb_0142))
  }

  private static func isHexadecimal(_ byte: UInt8) -> Bool {
    (48...57).contains(byte) || (97...102).contains(byte) || (65...70).contains(byte)
  }
  private static func hash(_ bytes: String.UTF8View, basis: UInt64) -> UInt64 {
    bytes.reduce(basis) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
  }
}
