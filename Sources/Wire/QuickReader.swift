import ClusterModel

/// Reads what every worker says at every step: `reduced`, `updated` and `heartbeat` as this project writes them. With
/// thousands of workers the coordinator does little else, and the library takes five times as long for it.
///
/// It takes nothing that the library would not read in the same way, and whatever is unusual (a field that it does not
/// know, a limit that is passed, a text that is not plain) is left to the library: it never decides that a message is
/// wrong. The fuzzer compares the two.
struct QuickReader {
  private let bytes: UnsafeRawBufferPointer
  private var offset = 0

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  // MARK: Protobuf (https://protobuf.dev/programming-guides/encoding)

  private enum WireType: UInt64 {
    case varint = 0
    case fixed64 = 1
    case lengthDelimited = 2
  }

  private var isAtEnd: Bool { offset == bytes.count }

  /// Nil where it ends within, or has more than 64 bits.
  private mutating func varint() -> UInt64? {
    var value: UInt64 = 0
    var shift: UInt64 = 0
    while offset < bytes.count {
      let byte = bytes[offset]
      offset += 1
      // The tenth byte has room for one bit.
      guard shift < 63 || byte <= 1 else { return nil }
      value |= UInt64(byte & 0x7F) << shift
      guard byte & 0x80 != 0 else { return value }
      shift += 7
    }
    return nil
  }

  /// The next field's number and type, of a tag of one byte or two: more is unusual, and not always allowed.
  private mutating func field() -> (number: UInt64, type: WireType)? {
    let before = offset
    guard let tag = varint(), offset - before <= 2, let type = WireType(rawValue: tag & 7) else { return nil }
    return (tag >> 3, type)
  }

  private mutating func double() -> Double? {
    guard bytes.count - offset >= 8 else { return nil }
    defer { offset += 8 }
    return Double(
      bitPattern: UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)))
  }

  /// The bytes of a text or a message within this one.
  private mutating func part() -> UnsafeRawBufferPointer? {
    guard let size = varint(), size <= UInt64(bytes.count - offset) else { return nil }
    defer { offset += Int(size) }
    return UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + Int(size)])
  }

  private mutating func number(atMost limit: UInt64) -> UInt64? { varint().flatMap { $0 <= limit ? $0 : nil } }
  /// A result of training, as ``WireLimits/trainingSum(_:_:)``.
  private mutating func sum() -> Double? { double().flatMap { $0.isNaN || $0 >= 0 ? $0 : nil } }
  /// A rate or a duration, as ``WireLimits/measure(_:_:)``.
  private mutating func measure() -> Double? { double().flatMap { $0.isFinite && $0 >= 0 ? $0 : nil } }

  /// Takes each field of a message in turn.
  /// - Parameter take: false for one that is not known, or not as it should be.
  private static func each(
    _ bytes: UnsafeRawBufferPointer, _ take: (inout QuickReader, UInt64, WireType) -> Bool
  ) -> Bool {
    var reader = QuickReader(bytes)
    while !reader.isAtEnd {
      guard let (number, type) = reader.field(), take(&reader, number, type) else { return false }
    }
    return true
  }

  /// Sets a value that was read.
  private static func set<Value>(_ place: inout Value, _ value: Value?) -> Bool {
    guard let value else { return false }
    place = value
    return true
  }

  // MARK: Messages

  static func envelope(_ bytes: UnsafeRawBufferPointer) -> Envelope? {
    var run: RunID?
    var generation: UInt64 = 0
    var isWorker = false
    var worker: UInt64 = 0
    var order: UInt64 = 0
    var message: ControlMessage?
    let isRead = each(bytes) { reader, number, type in
      switch (number, type) {
      case (1, .lengthDelimited):
        run = reader.part().flatMap(Self.run)
        return run != nil
      case (2, .varint): return set(&generation, reader.number(atMost: WireLimits.count))
      case (3, .varint):
        isWorker = reader.varint() == UInt64(Transfusion_Wire_SenderKind.worker.rawValue)
        return isWorker
      case (4, .varint): return set(&worker, reader.number(atMost: UInt64(UInt32.max)))
      case (5, .varint): return set(&order, reader.number(atMost: WireLimits.count))
      case (12, .lengthDelimited), (13, .lengthDelimited), (17, .lengthDelimited):
        // A second one would be merged with the first, or replace it.
        guard message == nil, let part = reader.part() else { return false }
        message =
          switch number {
          case 12: reduced(part).map { .reduced($0) }
          case 13: updated(part).map { .updated($0) }
          default: heartbeat(part).map { .heartbeat($0) }
          }
        return message != nil
      default: return false
      }
    }
    guard isRead, isWorker, let run, let message else { return nil }
    return Envelope(
      run: run, generation: Generation(generation), sender: .worker(WorkerID(UInt32(worker))), order: order,
      message: message)
  }

  /// As ``Envelope`` allows it, and not empty.
  private static func run(_ bytes: UnsafeRawBufferPointer) -> RunID? {
    guard !bytes.isEmpty, bytes.count <= WireLimits.runBytes, bytes.allSatisfy(Envelope.isAllowedInRun) else {
      return nil
    }
    return RunID(String(decoding: bytes, as: UTF8.self))
  }

  private static func reduced(_ bytes: UnsafeRawBufferPointer) -> Reduced? {
    var reduced = Reduced(step: 0, losses: [], norms: [])
    let isRead = each(bytes) { reader, number, type in
      switch (number, type) {
      case (1, .varint): return set(&reduced.step, reader.number(atMost: WireLimits.step))
      case (2, .lengthDelimited):
        guard reduced.losses.count < WireLimits.losses, let loss = reader.part().flatMap(loss) else { return false }
        reduced.losses.append(loss)
        return true
      case (3, .lengthDelimited):
        guard reduced.norms.count < WireLimits.tensors, let norm = reader.part().flatMap(norm) else { return false }
        reduced.norms.append(norm)
        return true
      default: return false
      }
    }
    return isRead ? reduced : nil
  }

  private static func loss(_ bytes: UnsafeRawBufferPointer) -> MicrobatchLoss? {
    var loss = MicrobatchLoss(microbatch: 0, languageModelSum: 0, targetTokens: 0, diffusionSum: 0, images: 0)
    let isRead = each(bytes) { reader, number, type in
      switch (number, type) {
      case (1, .varint): set(&loss.microbatch, reader.number(atMost: UInt64(WireLimits.index)).map { UInt32($0) })
      case (2, .fixed64): set(&loss.languageModelSum, reader.sum())
      case (3, .varint): set(&loss.targetTokens, reader.number(atMost: WireLimits.step))
      case (4, .fixed64): set(&loss.diffusionSum, reader.sum())
      case (5, .varint): set(&loss.images, reader.number(atMost: WireLimits.step))
      default: false
      }
    }
    return isRead ? loss : nil
  }

  private static func norm(_ bytes: UnsafeRawBufferPointer) -> TensorNorm? {
    var norm = TensorNorm(tensor: 0, sumOfSquares: 0)
    let isRead = each(bytes) { reader, number, type in
      switch (number, type) {
      case (1, .varint): set(&norm.tensor, reader.number(atMost: UInt64(WireLimits.index)).map { UInt32($0) })
      case (2, .fixed64): set(&norm.sumOfSquares, reader.sum())
      default: false
      }
    }
    return isRead ? norm : nil
  }

  private static func updated(_ bytes: UnsafeRawBufferPointer) -> Updated? {
    var updated = Updated(step: 0, phases: PhaseSeconds(), memoryBytes: 0)
    var hasPhases = false
    let isRead = each(bytes) { reader, number, type in
      switch (number, type) {
      case (1, .varint): return set(&updated.step, reader.number(atMost: WireLimits.step))
      case (2, .lengthDelimited):
        // A second one would be merged with the first.
        guard !hasPhases, let part = reader.part() else { return false }
        hasPhases = true
        return set(&updated.phases, phases(part))
      case (3, .varint): return set(&updated.memoryBytes, reader.number(atMost: WireLimits.count))
      default: return false
      }
    }
    return isRead ? updated : nil
  }

  private static func phases(_ bytes: UnsafeRawBufferPointer) -> PhaseSeconds? {
    var phases = PhaseSeconds()
    let isRead = each(bytes) { reader, number, type in
      guard type == .fixed64 else { return false }
      return switch number {
      case 1: set(&phases.forward, reader.measure())
      case 2: set(&phases.backward, reader.measure())
      case 3: set(&phases.receive, reader.measure())
      case 4: set(&phases.reduce, reader.measure())
      case 5: set(&phases.update, reader.measure())
      case 6: set(&phases.data, reader.measure())
      case 7: set(&phases.checkpoint, reader.measure())
      default: false
      }
    }
    return isRead ? phases : nil
  }

  private static func heartbeat(_ bytes: UnsafeRawBufferPointer) -> Heartbeat? {
    var beat = Heartbeat(progress: 0, step: 0, phase: "", microbatchesPerSecond: 0, memoryBytes: 0)
    let isRead = each(bytes) { reader, number, type in
      switch (number, type) {
      case (1, .varint): return set(&beat.progress, reader.number(atMost: WireLimits.count))
      case (2, .varint): return set(&beat.step, reader.number(atMost: WireLimits.step))
      case (3, .lengthDelimited):
        // Whether another text is valid is the library's to say.
        guard let text = reader.part(), text.count <= WireLimits.nameBytes, text.allSatisfy({ $0 < 0x80 }) else {
          return false
        }
        beat.phase = String(decoding: text, as: UTF8.self)
        return true
      case (4, .fixed64): return set(&beat.microbatchesPerSecond, reader.measure())
      case (5, .varint): return set(&beat.memoryBytes, reader.number(atMost: WireLimits.count))
      case (6, .varint): return set(&beat.order, reader.number(atMost: WireLimits.count))
      default: return false
      }
    }
    return isRead ? beat : nil
  }
}
