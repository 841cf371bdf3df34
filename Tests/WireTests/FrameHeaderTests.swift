import ClusterModel
import Testing
import Wire

/// A checksum that is good enough to see that it is used.
private func sum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
  bytes.reduce(UInt32(7)) { ($0 &* 31) &+ UInt32($1) }
}

@Suite struct FrameHeaderTests {
  static let header = FrameHeader(
    purpose: .data, element: .bfloat16, charged: true, run: RunTag(RunID("00112233445566778899aabbccddeeff")),
    generation: Generation(0x0102_0304_0506), sender: WorkerID(0xA1B2_C3D4),
    key: FrameKey(kind: .partialSum, step: 77, microbatch: 5, stage: 6, part: 9), totalBytes: 3 << 20,
    chunkOffset: 1 << 20, chunkBytes: 1 << 20, payloadChecksum: 0xDEAD_BEEF)

  static func bytes(_ header: FrameHeader) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xFF, count: FrameHeader.sizeBytes)
    bytes.withUnsafeMutableBytes { header.write(into: $0, checksum: sum) }
    return bytes
  }
  static func read(_ bytes: [UInt8]) throws -> FrameHeader {
    try bytes.withUnsafeBytes { try FrameHeader(reading: $0, checksum: sum) }
  }

  @Test func everyHeaderComesBackEqual() throws {
    for purpose in FrameHeader.Purpose.allCases {
      for element in FrameElement.allCases {
        for kind in FrameKey.Kind.allCases {
          var header = Self.header
          header.purpose = purpose
          header.element = element
          header.key.kind = kind
          #expect(try Self.read(Self.bytes(header)) == header)
        }
      }
    }
  }

  @Test func theLayoutIsTheDocumentedOne() {
    let bytes = Self.bytes(Self.header)
    #expect(Array(bytes[0..<8]) == Array("TFDP".utf8) + [2, 1, 2, 1])
    // The run tag: both halves little-endian.
    #expect(Array(bytes[8..<16]) == [0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00])
    #expect(Array(bytes[24..<32]) == [6, 5, 4, 3, 2, 1, 0, 0])
    #expect(bytes[32] == 77)
    #expect(Array(bytes[60..<64]) == [0xD4, 0xC3, 0xB2, 0xA1])
    #expect(Array(bytes[76..<84]) == [3, 0, 0, 0, 0xEF, 0xBE, 0xAD, 0xDE])
  }

  @Test func aHeaderWithAnyBitFlippedIsRefused() {
    let bytes = Self.bytes(Self.header)
    for bit in 0..<bytes.count * 8 {
      var damaged = bytes
      damaged[bit / 8] ^= 1 << UInt8(bit % 8)
      #expect(throws: WireError.self, "bit \(bit)") { try Self.read(damaged) }
    }
  }

  @Test func headersWithARightChecksumAreStillChecked() {
    func refused(_ change: (inout [UInt8]) -> Void) -> Bool {
      var bytes = Self.bytes(Self.header)
      change(&bytes)
      let checksum = bytes[..<FrameHeader.coveredBytes].withUnsafeBytes(sum)
      bytes.withUnsafeMutableBytes { $0.storeBytes(of: checksum.littleEndian, toByteOffset: 84, as: UInt32.self) }
      return (try? Self.read(bytes)) == nil
    }
    #expect(!refused { _ in })
    #expect(refused { $0[4] = 1 })  // version
    #expect(refused { $0[5] = 0 })  // purpose
    #expect(refused { $0[6] = 200 })  // element
    #expect(refused { $0[7] = 2 })  // charged
    #expect(refused { $0[76] = 0 })  // kind
    #expect(refused { $0[77] = 1 })
    #expect(refused { $0[39] = 0xFF })  // step
    #expect(refused { $0[47] = 0x80 })  // total
    #expect(refused { $0[50] = 0x30 })  // offset beyond the total
    #expect(refused { $0[58] = 0x11 })  // a chunk above the limit
    #expect(refused { $0[31] = 0xFF })  // generation
  }

  @Test func garbageNeverTraps() {
    var mixer = Mixer(state: 7)
    for _ in 0..<20_000 {
      var bytes = (0..<FrameHeader.sizeBytes).map { _ in UInt8(truncatingIfNeeded: mixer.next()) }
      if mixer.below(2) == 0 {
        // Past the first gates, to the fields.
        bytes.replaceSubrange(0..<5, with: Array("TFDP".utf8) + [FrameHeader.version])
        let checksum = bytes[..<FrameHeader.coveredBytes].withUnsafeBytes(sum)
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: checksum.littleEndian, toByteOffset: 84, as: UInt32.self) }
      }
      _ = try? Self.read(bytes)
      _ = try? Self.read(Array(bytes.prefix(mixer.below(100))))
    }
  }

  @Test func runTagsDiffer() {
    let texts = ["", "a", "b", "ab", "00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeefe", "run-1"]
    #expect(Set(texts.map { RunTag(RunID($0)) }).count == texts.count)
    #expect(RunTag(RunID("00112233445566778899AABBCCDDEEFF")) == RunTag(RunID("00112233445566778899aabbccddeeff")))
  }
}
