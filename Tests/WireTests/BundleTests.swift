import ClusterModel
import Testing
import Wire

@Suite struct BundleTests {
  @Test func messagesComeBackInOrderWithTheirSeats() throws {
    var builder = Bundle.Builder()
    builder.append([1, 2, 3], from: 7)
    builder.appendGone(1 << 31)
    builder.append([4], from: 7)
    #expect(builder.count == 3)
    #expect(
      builder.bytes == [0, 7, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0x80, 0, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 4])
    let bundle = try Bundle(reading: builder.bytes)
    #expect(bundle.entries.map(\.seat) == [7, 1 << 31, 7])
    #expect(bundle.entries.map { Array(bundle.bytes[$0.envelope]) } == [[1, 2, 3], [], [4]])
  }

  @Test func noMessageOfAPeerThatSpeaksForItselfIsTakenForOne() {
    let envelope = Envelope(run: RunID("r"), generation: .init(0), sender: .observer, message: .statusRequest)
    #expect(!Bundle.isBundle(firstByte: envelope.encoded().first))
    #expect(!Bundle.isBundle(firstByte: nil))
    #expect(Bundle.isBundle(firstByte: Bundle.Builder().bytes.first))
  }

  @Test func whatCannotBeIsRefused() {
    var builder = Bundle.Builder()
    builder.append([1, 2, 3], from: 7)
    let good = builder.bytes
    func refused(_ bytes: [UInt8]) -> Bool { (try? Bundle(reading: bytes)) == nil }
    #expect(!refused(good))
    #expect(refused([]))
    #expect(refused([0]))  // nothing in it
    #expect(refused([1] + good.dropFirst()))
    #expect(refused(good.dropLast()))  // less than it says
    #expect(refused(good + [0]))  // a head that is cut off
    #expect(refused([0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 9]))
    #expect(refused([0] + [UInt8](repeating: 0, count: 8 * (Bundle.entriesLimit + 1))))
    #expect(!refused([0] + [UInt8](repeating: 0, count: 8 * Bundle.entriesLimit)))
  }

  @Test func aBundleIsFullBeforeItIsUncomfortable() {
    var builder = Bundle.Builder()
    #expect(!builder.isFull(forBytes: Bundle.comfortableBytes * 2))  // one always goes
    builder.append([UInt8](repeating: 1, count: Bundle.comfortableBytes / 2), from: 1)
    #expect(!builder.isFull(forBytes: 100))
    #expect(builder.isFull(forBytes: Bundle.comfortableBytes / 2))
    var many = Bundle.Builder()
    for seat in 0..<UInt32(Bundle.entriesLimit) { many.appendGone(seat) }
    #expect(many.isFull(forBytes: 0))
  }

  @Test func seatsComeBackEqual() throws {
    let list = SeatList([1, 2, .max])
    #expect(list.bytes == [1, 0, 0, 0, 2, 0, 0, 0, 255, 255, 255, 255])
    #expect(try SeatList(reading: list.bytes) == list)
    for bad in [[], [1, 2, 3], [UInt8](repeating: 0, count: 4 * (Bundle.entriesLimit + 1))] {
      #expect(throws: WireError.self) { try SeatList(reading: bad) }
    }
  }
}
