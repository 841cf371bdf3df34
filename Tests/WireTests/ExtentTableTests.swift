import Testing
import Wire

@Suite struct ExtentTableTests {
  static let table = ExtentTable([
    .init(segment: 65_536, offset: 4_096, count: 12), .init(segment: 70_000, offset: 1 << 39, count: 1 << 40),
  ])
  static func bytes(_ table: ExtentTable) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xFF, count: ExtentTable.sizeBytes(table.extents.count))
    bytes.withUnsafeMutableBytes { table.write(into: $0) }
    return bytes
  }

  @Test func everyTableComesBackEqual() throws {
    let bytes = Self.bytes(Self.table)
    #expect(try bytes.withUnsafeBytes { try ExtentTable(reading: $0) } == Self.table)
    #expect(Array(bytes[0..<24]) == [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0])
    #expect(Self.table.totalBytes == 12 + 1 << 40)
    #expect(try bytes.withUnsafeBytes { try ExtentTable.count(reading: .init(rebasing: $0[..<8])) } == 2)
  }

  @Test func whatCannotBeIsRefused() {
    func refused(_ change: (inout [UInt8]) -> Void) -> Bool {
      var bytes = Self.bytes(Self.table)
      change(&bytes)
      return (try? bytes.withUnsafeBytes { try ExtentTable(reading: $0) }) == nil
    }
    #expect(!refused { _ in })
    #expect(refused { $0[0] = 0 })  // no pieces
    #expect(refused { $0[0] = 1 })  // fewer than there are
    #expect(refused { $0[0] = 3 })  // more than there are
    #expect(refused { $0[7] = 0x80 })
    #expect(refused { $0[11] = 1 })  // a segment above all
    #expect(refused { $0[23] = 0x80 })  // a negative offset
    #expect(refused { $0[30] = 1 })  // 2^48 bytes
    #expect(refused { $0.removeLast() })
    #expect(refused { $0.removeLast(24) })
    #expect(refused { $0 = [] })
    #expect(refused { $0 = [UInt8](repeating: 0, count: 8) })
  }
}
