import Testing
import Wire

@Suite struct SegmentOfferTests {
  static let offer = SegmentOffer(
    number: 9, process: 4_321, descriptor: 17, segmentBytes: 64 << 20, tokenHigh: 0x0102_0304_0506_0708, tokenLow: .max)

  static func bytes(_ offer: SegmentOffer) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xFF, count: SegmentOffer.sizeBytes)
    bytes.withUnsafeMutableBytes { offer.write(into: $0) }
    return bytes
  }

  @Test func everyOfferComesBackEqual() throws {
    let bytes = Self.bytes(Self.offer)
    #expect(try bytes.withUnsafeBytes { try SegmentOffer(reading: $0) } == Self.offer)
    #expect(Array(bytes[0..<16]) == [9, 0, 0, 0, 0xE1, 0x10, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0])
    let host = HostIdentity(high: 1, low: .max - 1)
    var room = [UInt8](repeating: 0, count: HostIdentity.sizeBytes)
    room.withUnsafeMutableBytes { host.write(into: $0) }
    #expect(try room.withUnsafeBytes { try HostIdentity(reading: $0) } == host)
  }

  @Test func whatCannotBeIsRefused() {
    func refused(_ change: (inout [UInt8]) -> Void) -> Bool {
      var bytes = Self.bytes(Self.offer)
      change(&bytes)
      return (try? bytes.withUnsafeBytes { try SegmentOffer(reading: $0) }) == nil
    }
    #expect(!refused { _ in })
    #expect(refused { $0[7] = 0x80 })  // a negative process
    #expect(refused { $0.replaceSubrange(4..<8, with: [0, 0, 0, 0]) })
    #expect(refused { $0[11] = 0x80 })  // a negative descriptor
    #expect(refused { $0[12] = 1 })
    #expect(refused { $0[3] = 1 })  // a number above all
    #expect(refused { $0[22] = 1 })  // 2^48 bytes
    #expect(refused { $0.removeLast() })
    #expect(refused { $0 = [] })
  }
}
