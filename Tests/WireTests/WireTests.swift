import ClusterModel
import Testing
import Tracing
import Wire

/// One message of every kind, with every field set to something of its own.
enum Samples {
  static let sha = String(repeating: "0123456789abcdef", count: 4)
  static let plan = Plan(
    stageUnits: [0..<3, 3..<5], replicaLeaves: [0..<1, 1..<4, 4..<5],
    places: [[WorkerID(1), WorkerID(2)], [WorkerID(7), WorkerID(4)], [WorkerID(5), WorkerID(6)]],
    spares: [WorkerID(9), WorkerID(8)], schedule: .oneForwardOneBackward)
  static let losses = [
    MicrobatchLoss(microbatch: 3, languageModelSum: 12.5, targetTokens: 1_024, diffusionSum: 0.125, images: 2),
    MicrobatchLoss(microbatch: 4, languageModelSum: .infinity, targetTokens: 0, diffusionSum: 0, images: 0),
  ]
  static var phases: PhaseSeconds {
    var phases = PhaseSeconds()
    phases.forward = 1
    phases.backward = 2.5
    phases.receive = 0.25
    phases.reduce = 4
    phases.update = 5
    phases.data = 6
    phases.checkpoint = 7
    return phases
  }
  static let messages: [ControlMessage] = [
    .hello(
      Hello(
        worker: WorkerID(0), host: "host-1", processID: 4_711, threads: 2, memoryLimitBytes: 1 << 33,
        deviceFingerprint: "cpu/x86-64/avx512", gigaflopsPerSecond: 112.5, dataEndpoint: "tcp://127.0.0.1:4000")),
    .hello(
      Hello(
        worker: nil, host: "größe", processID: -1, threads: 1, memoryLimitBytes: 0, deviceFingerprint: "reference",
        gigaflopsPerSecond: 0, dataEndpoint: "ipc:///tmp/x")),
    .ready(Ready(step: 12, dataFingerprint: "abc", memoryBytes: 99)),
    .reduced(Reduced(step: 8, losses: losses, norms: [TensorNorm(tensor: 0, sumOfSquares: 3.5)])),
    .updated(Updated(step: 8, phases: phases, memoryBytes: 1)),
    .evaluated(Evaluated(step: 100, losses: losses)),
    .checkpointWritten(
      CheckpointPart(
        step: 100, file: "worker-0001.h5", sizeBytes: 1 << 40, sha256: sha,
        tensors: [
          .init(path: "/parameters/model.norm.weight", shape: [768], sha256: sha),
          .init(path: "/parameters/lm_head.weight", shape: [32_000, 768], sha256: sha),
          .init(path: "/scalar", shape: [], sha256: sha),
        ])),
    .checkpointFailed(step: 7, reason: "no space left on device"),
    .heartbeat(Heartbeat(progress: 5, step: 6, phase: "forward", microbatchesPerSecond: 0.5, memoryBytes: 1 << 32)),
    .leaving(reason: "SIGTERM"), .failed(kind: .data, reason: ""),
    .traced(
      Traced(
        spans: TraceSpan.Activity.allCases.map {
          TraceSpan(activity: $0, step: 4, microbatch: $0 == .reduce ? nil : 0, start: 1 << 50, duration: 0)
        }, dropped: 3, pageFaults: 0)),
    .traced(Traced(clock: .init(sentNanoseconds: 0, workerNanoseconds: 5))), .clockQuestion(sentNanoseconds: 1 << 40),
    .welcome(
      Welcome(worker: WorkerID(3), configuration: "model:\n  width: 4\n", runDirectory: "/runs/a", tracing: true)),
    .refused(reason: "wrong version"),
    .prepare(
      Prepare(
        plan: plan,
        peers: [
          Peer(worker: WorkerID(1), dataEndpoint: "tcp://127.0.0.1:1"),
          Peer(
            worker: WorkerID(2), dataEndpoint: "tcp://127.0.0.1:2",
            publicKey: [UInt8](repeating: 7, count: Peer.publicKeyBytes)),
        ], fromStep: 40,
        origin: .members([
          StateHolding(worker: WorkerID(1), parameters: [0..<3, 5..<6], moments: [0..<1]),
          StateHolding(worker: WorkerID(2), parameters: [], moments: [1..<6]),
        ]), norm: CommittedNorm(step: 40, sumOfSquares: 0.25, generation: Generation(3)), skipped: [8..<16, 32..<40])),
    .prepare(Prepare(plan: plan, peers: [], fromStep: 0, origin: .seed)),
    .prepare(Prepare(plan: plan, peers: [], fromStep: 7, origin: .checkpoint)),
    .standing(Standing()),
    .standing(
      Standing(
        live: HeldState(step: 9, parameters: [0..<4], moments: [1..<2, 3..<4]), hasSums: true,
        copies: [HeldState(step: 0, parameters: [0..<1], moments: [])], generation: Generation(6))),
    .copied(step: 20), .regroup, .introduce, .save(step: 12),
    .runStep(step: 0), .update(Update(step: 3, gradientSumOfSquares: 1e-300, checkpoint: true, copy: true)),
    .evaluate(step: 1), .checkpointCommitted(step: 100), .coordinatorHeartbeat(CoordinatorHeartbeat()),
    .coordinatorHeartbeat(CoordinatorHeartbeat(awaitedOrder: 7, awaitedPart: 40)),
    .stop(Stop(disposition: .done, reason: "")), .stop(Stop(disposition: .requeue, reason: "asked")),
    .stop(Stop(disposition: .failed, reason: "configuration")), .statusRequest, .status(json: "{\"step\": 1}"),
  ]
  static let senders: [Envelope.Sender] = [.coordinator, .worker(WorkerID(.max)), .candidate, .observer]
  static func envelope(_ message: ControlMessage, _ sender: Envelope.Sender = .coordinator) -> Envelope {
    Envelope(
      run: RunID("00112233445566778899aabbccddeeff"), generation: Generation(7), sender: sender, message: message)
  }
}

/// A small seeded generator, so that a failure can be run again.
struct Mixer {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
  mutating func below(_ bound: Int) -> Int { Int(next() % UInt64(max(bound, 1))) }
}

@Suite struct ControlMessageTests {
  @Test(arguments: Samples.messages) func everyMessageComesBackEqual(message: ControlMessage) throws {
    for sender in Samples.senders {
      let envelope = Samples.envelope(message, sender)
      #expect(try Envelope(decoding: envelope.encoded()) == envelope)
    }
  }

  /// What is said at every step is read by hand, and as the library reads it; everything else is left to the library.
  @Test(arguments: Samples.messages) func whatIsUsualIsReadQuickly(message: ControlMessage) throws {
    for sender in Samples.senders {
      let envelope = Samples.envelope(message, sender)
      let bytes = envelope.encoded()
      let isUsual =
        switch (message, sender) {
        case (.reduced, .worker), (.updated, .worker), (.heartbeat, .worker): true
        default: false
        }
      #expect(Envelope.quickly(bytes[...]) == (isUsual ? envelope : nil))
      #expect(try Envelope(thoroughly: bytes) == envelope)
      // Wherever it lies.
      #expect(try Envelope(decoding: ([7, 7] + bytes + [7])[2..<2 + bytes.count]) == envelope)
    }
  }

  @Test func whatIsUnusualIsLeftToTheLibrary() throws {
    let beat = Heartbeat(
      progress: 300, step: 2, phase: "forward", microbatchesPerSecond: 1.5, memoryBytes: 1 << 40, order: 7)
    let usual = Samples.envelope(.heartbeat(beat), .worker(WorkerID(3))).encoded()
    #expect(Envelope.quickly(usual[...]) != nil)
    func left(_ bytes: [UInt8], _ what: String) { #expect(Envelope.quickly(bytes[...]) == nil, "\(what)") }
    for count in 0..<usual.count where count != usual.count { left(Array(usual.prefix(count)), "cut to \(count)") }
    left(usual + [0x78, 1], "an unknown field")
    left(usual + usual, "twice")
    left(usual + [0x20] + [UInt8](repeating: 0xFF, count: 9) + [0x02], "a number of more than 64 bits")
    left(usual + [0x20] + [0xFF, 0xFF, 0xFF, 0xFF, 0x1F], "a worker of more than 32 bits")
    left(usual + [0x18, 1], "the coordinator's")
    left([0x8A, 0x80, 0x80, 0x80, 0x80, 0] + usual.dropFirst(), "a tag that the library refuses")
    left(usual + [0x21, 0, 0, 0, 0, 0, 0, 0, 0], "a number of another type")
    var foreign = beat
    foreign.phase = "vorwärts"
    let other = Samples.envelope(.heartbeat(foreign), .worker(WorkerID(3)))
    left(other.encoded(), "a text that is not ASCII")
    #expect(try Envelope(decoding: other.encoded()) == other)
    foreign.phase = "forward"
    foreign.microbatchesPerSecond = -1
    let wrong = Samples.envelope(.heartbeat(foreign), .worker(WorkerID(3))).encoded()
    left(wrong, "a value that is not allowed")
    #expect(throws: WireError.self) { try Envelope(decoding: wrong) }
  }

  @Test func samplesCoverEveryCase() {
    // As many as the envelope's `oneof` has fields.
    #expect(Set(Samples.messages.map { "\($0)".prefix { $0 != "(" } }).count == 28)
  }

  @Test func candidatesNeedNoRunAndMembersDo() throws {
    var envelope = Samples.envelope(.statusRequest, .observer)
    envelope.run = RunID("")
    #expect(try Envelope(decoding: envelope.encoded()) == envelope)
    envelope.sender = .worker(WorkerID(1))
    #expect(throws: WireError.missing(field: "run")) { try Envelope(decoding: envelope.encoded()) }
  }

  @Test func lossesThatAreNotNumbersArrive() throws {
    let loss = MicrobatchLoss(
      microbatch: 0, languageModelSum: .nan, targetTokens: 1, diffusionSum: .infinity, images: 1)
    let envelope = Samples.envelope(.evaluated(Evaluated(step: 1, losses: [loss])))
    let decoded = try Envelope(decoding: envelope.encoded())
    guard case .evaluated(let evaluated) = decoded.message else {
      Issue.record("another message")
      return
    }
    #expect(evaluated.losses[0].languageModelSum.isNaN)
    #expect(evaluated.losses[0].diffusionSum == .infinity)
    #expect(decoded.encoded() == envelope.encoded())
  }

  @Test(arguments: FailureKind.allCases) func everyKindOfFailureArrives(kind: FailureKind) throws {
    let envelope = Samples.envelope(.failed(kind: kind, reason: "why"))
    #expect(try Envelope(decoding: envelope.encoded()) == envelope)
  }

  @Test func longReasonsAreCutAtACharacter() throws {
    let reason = String(repeating: "ä", count: 20_000)
    let decoded = try Envelope(decoding: Samples.envelope(.failed(kind: .software, reason: reason)).encoded())
    #expect(
      decoded.message == .failed(kind: .software, reason: String(repeating: "ä", count: WireLimits.reasonBytes / 2)))
  }

  static var refused: [(String, ControlMessage)] {
    var refused: [(String, ControlMessage)] = []
    func plan(_ change: (inout Plan) -> Void) -> ControlMessage {
      var plan = Samples.plan
      change(&plan)
      return .prepare(Prepare(plan: plan, peers: [], fromStep: 0, origin: .seed))
    }
    refused.append(("a gap between stages", plan { $0.stageUnits = [0..<3, 4..<5] }))
    refused.append(("an empty stage", plan { $0.stageUnits = [0..<3, 3..<3] }))
    refused.append(("no stage", plan { $0.stageUnits = [] }))
    refused.append(("leaves not from 0", plan { $0.replicaLeaves = [1..<2, 2..<4, 4..<5] }))
    refused.append(("a place missing", plan { $0.places[0] = [WorkerID(1)] }))
    refused.append(("a worker twice", plan { $0.spares = [WorkerID(1)] }))
    refused.append(
      (
        "a peer twice",
        .prepare(
          Prepare(
            plan: Samples.plan,
            peers: [
              Peer(worker: WorkerID(1), dataEndpoint: "a"), Peer(worker: WorkerID(1), dataEndpoint: "b"),
            ], fromStep: 0, origin: .seed))
      ))
    func holders(_ ranges: [Range<Int>]) -> ControlMessage {
      .standing(Standing(copies: [HeldState(step: 1, parameters: ranges, moments: [])]))
    }
    refused.append(("tensors that overlap", holders([0..<4, 3..<6])))
    refused.append(("tensors that descend", holders([4..<6, 0..<2])))
    refused.append(("no tensors", holders([2..<2])))
    refused.append(("more tensors than any model has", holders([0..<WireLimits.tensors + 1])))
    refused.append(
      (
        "skipped samples that overlap",
        .prepare(
          Prepare(plan: Samples.plan, peers: [], fromStep: 0, origin: .seed, skipped: [0..<8, 7..<9]))
      ))
    for count in [1, 31, 33, 4_096] {
      refused.append(
        (
          "a key of \(count) bytes",
          .prepare(
            Prepare(
              plan: Samples.plan,
              peers: [Peer(worker: WorkerID(1), dataEndpoint: "a", publicKey: [UInt8](repeating: 1, count: count))],
              fromStep: 0, origin: .seed))
        ))
    }
    func hello(_ change: (inout Hello) -> Void) -> ControlMessage {
      var hello = Hello(
        worker: nil, host: "h", processID: 1, threads: 1, memoryLimitBytes: 1, deviceFingerprint: "d",
        gigaflopsPerSecond: 1, dataEndpoint: "e")
      change(&hello)
      return .hello(hello)
    }
    refused.append(("NaN speed", hello { $0.gigaflopsPerSecond = .nan }))
    refused.append(("negative speed", hello { $0.gigaflopsPerSecond = -1 }))
    refused.append(("no threads", hello { $0.threads = 0 }))
    refused.append(("no host", hello { $0.host = "" }))
    refused.append(("a line break in the host", hello { $0.host = "a\nb" }))
    refused.append(("memory beyond Int", hello { $0.memoryLimitBytes = .max }))
    refused.append(("an endless endpoint", hello { $0.dataEndpoint = String(repeating: "x", count: 5_000) }))
    refused.append(("a step that + 1 would overflow", .runStep(step: .max)))
    refused.append(("a negative sum of squares", .update(Update(step: 1, gradientSumOfSquares: -1, checkpoint: false))))
    func part(_ change: (inout CheckpointPart) -> Void) -> ControlMessage {
      var part = CheckpointPart(
        step: 1, file: "a.h5", sizeBytes: 1, sha256: Samples.sha,
        tensors: [.init(path: "/a", shape: [2], sha256: Samples.sha)])
      change(&part)
      return .checkpointWritten(part)
    }
    refused.append(("a path as file name", part { $0.file = "../../etc/passwd" }))
    refused.append(("a hidden file", part { $0.file = "..h5" }))
    refused.append(("a short digest", part { $0.sha256 = "abc" }))
    refused.append(("upper-case digest", part { $0.tensors[0].sha256 = Samples.sha.uppercased() }))
    refused.append(("an empty extent", part { $0.tensors[0].shape = [0] }))
    refused.append(("extents that overflow", part { $0.tensors[0].shape = [1 << 32, 1 << 32] }))
    refused.append(("a negative extent", part { $0.tensors[0].shape = [-1, .max, 4] }))
    refused.append(("too many dimensions", part { $0.tensors[0].shape = [Int](repeating: 1, count: 9) }))
    return refused
  }
  @Test func whatNoSenderOfOursSendsIsRefused() {
    for (name, message) in Self.refused {
      let bytes = Samples.envelope(message).encoded()
      #expect(throws: WireError.self, "\(name)") { try Envelope(decoding: bytes) }
    }
  }

  @Test func aTraceReportIsBoundedByItsNewestSpans() throws {
    let spans = (0..<UInt64(WireLimits.spans) + 5).map {
      TraceSpan(activity: .forward, step: $0, start: $0, duration: 1)
    }
    let bytes = Samples.envelope(.traced(Traced(spans: spans, dropped: 1))).encoded()
    #expect(bytes.count < WireLimits.messageBytes)
    guard case .traced(let report) = try Envelope(decoding: bytes).message else {
      Issue.record("another message came back")
      return
    }
    #expect(report.spans == Array(spans.suffix(WireLimits.spans)) && report.dropped == 6)
  }

  @Test func runsWithOddCharactersAndHugeMessagesAreRefused() {
    var envelope = Samples.envelope(.regroup)
    envelope.run = RunID("a/b")
    #expect(throws: WireError.self) { try Envelope(decoding: envelope.encoded()) }
    #expect(throws: WireError.self) { try Envelope(decoding: []) }
    let huge = [UInt8](repeating: 0, count: WireLimits.messageBytes + 1)
    #expect(
      throws: WireError.tooLarge(what: "the message", sizeBytes: huge.count, limitBytes: WireLimits.messageBytes)
    ) { try Envelope(decoding: huge) }
  }

  @Test(.timeLimit(.minutes(2))) func mutatedMessagesNeverTrap() {
    let originals = Samples.messages.map { Samples.envelope($0).encoded() }
    var mixer = Mixer(state: 42)
    var accepted = 0
    for round in 0..<30_000 {
      var bytes = originals[round % originals.count]
      for _ in 0...mixer.below(4) {
        switch mixer.below(5) {
        case 0 where !bytes.isEmpty: bytes[mixer.below(bytes.count)] = UInt8(truncatingIfNeeded: mixer.next())
        case 1 where !bytes.isEmpty: bytes[mixer.below(bytes.count)] ^= 1 << UInt8(mixer.below(8))
        case 2: bytes = Array(bytes.prefix(mixer.below(bytes.count + 1)))
        case 3: bytes.insert(UInt8(truncatingIfNeeded: mixer.next()), at: mixer.below(bytes.count + 1))
        default: bytes += originals[mixer.below(originals.count)].suffix(mixer.below(40))
        }
      }
      if let envelope = try? Envelope(decoding: bytes) {
        accepted += 1
        // What was accepted can be said again.
        #expect((try? Envelope(decoding: envelope.encoded())) != nil)
      }
    }
    #expect(accepted > 100)
  }

  /// What decides, on both sides, whether a worker's sums make the newest state.
  @Test func onlySumsOfTheCommittedAttemptMakeAState() {
    let norm = CommittedNorm(step: 5, sumOfSquares: 1, generation: Generation(3))
    func standing(_ step: Step?, sums: Bool = true, in generation: UInt64 = 3) -> Standing {
      Standing(
        live: step.map { HeldState(step: $0, parameters: [0..<4], moments: [0..<4]) }, hasSums: sums,
        copies: [HeldState(step: 5, parameters: [0..<4], moments: [0..<4])], generation: Generation(generation))
    }
    #expect(standing(4).madeBySums(norm) == 5)
    #expect(standing(4, in: 2).madeBySums(norm) == nil && standing(4, in: 4).madeBySums(norm) == nil)
    #expect(standing(4, sums: false).madeBySums(norm) == nil)
    #expect(standing(3).madeBySums(norm) == nil && standing(5).madeBySums(norm) == nil)
    #expect(standing(nil).madeBySums(norm) == nil)
  }
}
