import ClusterModel
import Foundation
import Testing
import Tracing

@Suite struct TraceRecorderTests {
  @Test func recordsNothingUntilItIsTurnedOn() {
    let recorder = TraceRecorder()
    #expect(recorder.measure(.forward, step: 1, microbatch: 2) { 7 } == 7)
    #expect(recorder.drain().spans.isEmpty)
    recorder.turnOn()
    #expect(recorder.measure(.forward, step: 1, microbatch: 2) { 8 } == 8)
    let spans = recorder.drain().spans
    #expect(spans.map(\.activity) == [.forward] && spans.map(\.step) == [1] && spans.map(\.microbatch) == [2])
    #expect(recorder.drain().spans.isEmpty)
  }

  @Test func keepsTheNewestAndCountsTheRest() {
    let recorder = TraceRecorder(capacity: 4)
    recorder.turnOn()
    for step in 0..<11 { recorder.record(.update, step: Step(step), from: recorder.now) }
    let (spans, dropped) = recorder.drain()
    #expect(spans.map(\.step) == [7, 8, 9, 10] && dropped == 7)
    recorder.record(.update, step: 11, from: recorder.now)
    #expect(recorder.drain().spans.map(\.step) == [11])
  }

  @Test func aBodyThatThrowsIsRecordedToo() {
    struct Failure: Error {}
    let recorder = TraceRecorder()
    recorder.turnOn()
    #expect(throws: Failure.self) { try recorder.measure(.reduce, step: 0) { throw Failure() } }
    #expect(recorder.drain().spans.map(\.activity) == [.reduce])
  }

  @Test(.timeLimit(.minutes(1))) func threadsMayRecordAtTheSameTime() async {
    let recorder = TraceRecorder()
    recorder.turnOn()
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<4 {
        group.addTask { for step in 0..<1_000 { recorder.measure(.send, step: Step(step)) {} } }
      }
    }
    #expect(recorder.drain().spans.count == 4_000)
  }
}

@Suite struct ClockOffsetTests {
  /// Clocks 0.9 s apart, delays that differ both ways: the error stays within half the best round trip.
  @Test func isWithinHalfTheShortestRoundTrip() throws {
    var clock = ClockOffset()
    #expect(clock.nanoseconds == nil && clock.local(3) == nil)
    var ours: UInt64 = 1_000_000_000
    for round in 0..<200 {
      let there = UInt64(20_000 + (round * 7_919) % 900_000)
      let back = UInt64(20_000 + (round * 104_729) % 900_000)
      clock.add(sent: ours, remote: UInt64(Int64(ours + there) - 900_000_000), received: ours + there + back)
      ours += 500_000_000
    }
    let found = try #require(clock.nanoseconds)
    let uncertainty = try #require(clock.uncertaintyNanoseconds)
    #expect(abs(found - 900_000_000) <= Int64(uncertainty))
    #expect(uncertainty < 200_000, "\(uncertainty)")
  }

  @Test func followsAClockThatDrifts() throws {
    var clock = ClockOffset()
    for round in UInt64(0)..<1_000 {
      let ours = 1_000_000_000 + round * 500_000_000
      clock.add(sent: ours, remote: ours + 100_000 + round * 1_000 + 50_000, received: ours + 100_000)
    }
    #expect(abs(try #require(clock.nanoseconds) + 1_099_000) < 70_000)
  }

  @Test func impossibleAnswersAreIgnored() {
    var clock = ClockOffset()
    clock.add(sent: 10, remote: 5, received: 9)
    clock.add(sent: 10, remote: .max, received: 20)
    #expect(clock.nanoseconds == nil)
    clock.add(sent: 10, remote: 1_000, received: 20)
    #expect(clock.local(0) == 0)
    #expect(clock.local(1_000) == 15)
  }
}

@Suite struct TraceTextTests {
  private func events(_ text: String) throws -> [[String: Any]] {
    try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]])
  }

  @Test func isJSONWithNamesTimesAndArguments() throws {
    var text = TraceText()
    var json = text.name(process: 3, "worker \"3\" \\ \n", rows: [(1, "compute")])
    json += text.activity("forward", process: 3, row: 1, from: 1_234_567, to: 2_000_007, step: 9, microbatch: 4)
    json += text.activity("update", process: 3, row: 1, from: 3_000_000, to: 3_000_001, step: 9)
    json += text.end()
    let events = try events(json)
    #expect(events.count == 5)
    let forward = try #require(events.first { $0["name"] as? String == "forward" })
    #expect(forward["ts"] as? Double == 1_234.567 && forward["dur"] as? Double == 765.44)
    let arguments = try #require(forward["args"] as? [String: Any])
    #expect(arguments["step"] as? Int == 9 && arguments["microbatch"] as? Int == 4)
  }

  @Test func rowsDoNotOverlapWhenAClockIsCorrected() throws {
    var text = TraceText()
    var json = text.activity("a", process: 1, row: 1, from: 1_000, to: 5_000, step: 0)
    json += text.activity("b", process: 1, row: 1, from: 4_000, to: 9_000, step: 0)
    json += text.activity("c", process: 1, row: 1, from: 6_000, to: 8_000, step: 0)
    json += text.activity("other row", process: 1, row: 2, from: 4_000, to: 9_000, step: 0)
    json += text.end()
    let spans = try events(json).map { event in
      (start: event["ts"] as? Double ?? -1, duration: event["dur"] as? Double ?? -1)
    }
    #expect(spans.map(\.start) == [1, 5, 9, 4] && spans.map(\.duration) == [4, 4, 0, 5])
  }

  @Test func aTraceThatWasCutOffLacksOnlyTheBracket() throws {
    var text = TraceText()
    let json = text.activity("a", process: 1, row: 1, from: 0, to: 1, step: 0)
    #expect(throws: (any Error).self) { try events(json) }
    #expect(try events(json + "]").count == 1)
    var empty = TraceText()
    #expect(try events(empty.end()).isEmpty)
  }
}
