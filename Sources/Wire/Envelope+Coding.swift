import ClusterModel
import SwiftProtobuf

extension Envelope {
  /// The envelope as the bytes of one message (protobuf, Protos/control.proto). Reasons longer than
  /// ``WireLimits/reasonBytes`` are cut; everything else is written as it is.
  public func encoded() -> [UInt8] {
    var proto = Transfusion_Wire_Envelope()
    proto.run = run.text
    proto.generation = generation.number
    switch sender {
    case .coordinator: proto.senderKind = .coordinator
    case .worker(let worker):
      proto.senderKind = .worker
      proto.senderWorker = worker.number
    case .candidate: proto.senderKind = .candidate
    case .observer: proto.senderKind = .observer
    }
    proto.order = order
    proto.message = message.proto
    do {
      return try proto.serializedBytes()
    } catch {
      // proto3 has no required fields, and Swift strings are valid UTF-8.
      preconditionFailure("a control message could not be serialized: \(error)")
    }
  }

  /// Reads and checks one message from a peer that is not trusted.
  /// - Throws: ``WireError`` naming the field; never traps, whatever the bytes are.
  public init(decoding bytes: [UInt8]) throws(WireError) { try self.init(decoding: bytes[...]) }

  /// The same from a part of a bundle.
  public init(decoding bytes: ArraySlice<UInt8>) throws(WireError) {
    if bytes.count <= WireLimits.messageBytes, let usual = Self.quickly(bytes) {
      self = usual
    } else {
      try self.init(thoroughly: Array(bytes))
    }
  }

  /// What is said at every step as it is usually written; nil for everything else.
  package static func quickly(_ bytes: ArraySlice<UInt8>) -> Envelope? {
    bytes.withUnsafeBytes(QuickReader.envelope)
  }

  /// Reads any message with the library.
  package init(thoroughly bytes: [UInt8]) throws(WireError) {
    guard bytes.count <= WireLimits.messageBytes else {
      throw .tooLarge(what: "the message", sizeBytes: bytes.count, limitBytes: WireLimits.messageBytes)
    }
    let proto: Transfusion_Wire_Envelope
    do {
      proto = try Transfusion_Wire_Envelope(serializedBytes: bytes)
    } catch {
      throw .malformed(what: "the message", reason: "\(error)")
    }
    let sender: Sender
    switch proto.senderKind {
    case .coordinator: sender = .coordinator
    case .worker: sender = .worker(WorkerID(proto.senderWorker))
    case .candidate: sender = .candidate
    case .observer: sender = .observer
    case .unspecified: throw .missing(field: "sender")
    case .UNRECOGNIZED(let value): throw .unknownCase(field: "sender", value: value)
    }
    guard let message = proto.message else { throw .missing(field: "message") }
    self.init(
      run: try Self.checkedRun(proto.run, sender: sender),
      generation: Generation(try WireLimits.number(proto.generation, "generation", atMost: WireLimits.count)),
      sender: sender, order: try WireLimits.number(proto.order, "order", atMost: WireLimits.count),
      message: try ControlMessage(message))
  }

  static func isAllowedInRun(_ byte: UInt8) -> Bool {
    (48...57).contains(byte) || (65...90).contains(byte) || (97...122).contains(byte) || byte == 45 || byte == 95
  }

  private static func checkedRun(_ text: String, sender: Sender) throws(WireError) -> RunID {
    let text = try WireLimits.text(text, "run", atMost: WireLimits.runBytes)
    if text.isEmpty && sender != .candidate && sender != .observer { throw .missing(field: "run") }
    guard text.utf8.allSatisfy(isAllowedInRun) else {
      throw .outOfRange(field: "run", value: "another text", allowed: "letters, digits, - and _")
    }
    return RunID(text)
  }
}

extension ControlMessage {
  var proto: Transfusion_Wire_Envelope.OneOf_Message {
    switch self {
    case .hello(let value): .hello(value.proto)
    case .ready(let value): .ready(value.proto)
    case .reduced(let value): .reduced(value.proto)
    case .updated(let value): .updated(value.proto)
    case .evaluated(let value): .evaluated(value.proto)
    case .checkpointWritten(let value): .checkpointWritten(value.proto)
    case .checkpointFailed(let step, let reason):
      .checkpointFailed(
        .with {
          $0.step = step
          $0.reason = WireLimits.cut(reason, toBytes: WireLimits.reasonBytes)
        })
    case .heartbeat(let value): .heartbeat(value.proto)
    case .leaving(let reason): .leaving(.init(reason))
    case .failed(let kind, let reason): .failed(.init(kind, reason))
    case .traced(let value): .traced(value.proto)
    case .standing(let value): .standing(value.proto)
    case .copied(let step): .copied(.with { $0.step = step })
    case .welcome(let value): .welcome(value.proto)
    case .refused(let reason): .refused(.init(reason))
    case .prepare(let value): .prepare(value.proto)
    case .runStep(let step): .runStep(.with { $0.step = step })
    case .update(let value): .update(value.proto)
    case .evaluate(let step): .evaluate(.with { $0.step = step })
    case .save(let step): .save(.with { $0.step = step })
    case .checkpointCommitted(let step): .checkpointCommitted(.with { $0.step = step })
    case .coordinatorHeartbeat(let value): .coordinatorHeartbeat(value.proto)
    case .regroup: .regroup(.init())
    case .introduce: .introduce(.init())
    case .stop(let value): .stop(value.proto)
    case .clockQuestion(let sent): .clockQuestion(.with { $0.sentNanoseconds = sent })
    case .statusRequest: .statusRequest(.init())
    case .status(let json): .status(.with { $0.json = json })
    }
  }

  init(_ proto: Transfusion_Wire_Envelope.OneOf_Message) throws(WireError) {
    switch proto {
    case .hello(let value): self = .hello(try Hello(value))
    case .ready(let value): self = .ready(try Ready(value))
    case .reduced(let value): self = .reduced(try Reduced(value))
    case .updated(let value): self = .updated(try Updated(value))
    case .evaluated(let value): self = .evaluated(try Evaluated(value))
    case .checkpointWritten(let value): self = .checkpointWritten(try CheckpointPart(value))
    case .checkpointFailed(let value):
      self = .checkpointFailed(
        step: try WireLimits.step(value.step, "checkpointFailed.step"),
        reason: try WireLimits.text(value.reason, "checkpointFailed.reason", atMost: WireLimits.reasonBytes))
    case .heartbeat(let value): self = .heartbeat(try Heartbeat(value))
    case .leaving(let value): self = .leaving(reason: try value.checked("leaving.reason"))
    case .failed(let value):
      self = .failed(
        kind: try value.checkedKind(),
        reason: try WireLimits.text(value.reason, "failed.reason", atMost: WireLimits.reasonBytes))
    case .traced(let value): self = .traced(try Traced(value))
    case .standing(let value): self = .standing(try Standing(value))
    case .copied(let value): self = .copied(step: try WireLimits.step(value.step, "copied.step"))
    case .welcome(let value): self = .welcome(try Welcome(value))
    case .refused(let value): self = .refused(reason: try value.checked("refused.reason"))
    case .prepare(let value): self = .prepare(try Prepare(value))
    case .runStep(let value): self = .runStep(step: try WireLimits.step(value.step, "runStep.step"))
    case .update(let value): self = .update(try Update(value))
    case .evaluate(let value): self = .evaluate(step: try WireLimits.step(value.step, "evaluate.step"))
    case .save(let value): self = .save(step: try WireLimits.step(value.step, "save.step"))
    case .checkpointCommitted(let value):
      self = .checkpointCommitted(step: try WireLimits.step(value.step, "checkpointCommitted.step"))
    case .coordinatorHeartbeat(let value): self = .coordinatorHeartbeat(try CoordinatorHeartbeat(value))
    case .regroup: self = .regroup
    case .introduce: self = .introduce
    case .stop(let value): self = .stop(try Stop(value))
    case .clockQuestion(let value):
      self = .clockQuestion(
        sentNanoseconds: try WireLimits.number(
          value.sentNanoseconds, "clockQuestion.sentNanoseconds", atMost: WireLimits.count))
    case .statusRequest: self = .statusRequest
    case .status(let value):
      self = .status(json: try WireLimits.text(value.json, "status.json", atMost: WireLimits.statusBytes))
    }
  }
}

extension Transfusion_Wire_Reason {
  init(_ reason: String) {
    self.init()
    self.reason = WireLimits.cut(reason, toBytes: WireLimits.reasonBytes)
  }
  func checked(_ field: String) throws(WireError) -> String {
    try WireLimits.text(reason, field, atMost: WireLimits.reasonBytes)
  }
}

extension Transfusion_Wire_Failure {
  init(_ kind: FailureKind, _ reason: String) {
    self.init()
    self.kind =
      switch kind {
      case .data: .data
      case .configuration: .configuration
      case .storage: .storage
      case .peerLost: .peerLost
      case .software: .software
      }
    self.reason = WireLimits.cut(reason, toBytes: WireLimits.reasonBytes)
  }
  func checkedKind() throws(WireError) -> FailureKind {
    switch kind {
    case .data: .data
    case .configuration: .configuration
    case .storage: .storage
    case .peerLost: .peerLost
    case .software: .software
    case .unspecified: throw .missing(field: "failed.kind")
    case .UNRECOGNIZED(let value): throw .unknownCase(field: "failed.kind", value: value)
    }
  }
}
