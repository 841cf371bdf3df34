/// Any bytes in protobuf's wire format as fields in fields, to be changed and written with right lengths.
struct ProtobufTree {
  enum Value {
    case varint(UInt64)
    case fixed64([UInt8])
    case fixed32([UInt8])
    case bytes([UInt8])
    case message(ProtobufTree)
  }
  struct Field {
    var number: UInt64
    var value: Value
  }
  var fields: [Field] = []

  static let depthLimit = 16

  init() {}

  /// Nil where the bytes are no fields.
  init?(_ bytes: [UInt8], depth: Int = 0) {
    var reader = Reader(bytes: bytes[...])
    while !reader.bytes.isEmpty {
      guard let key = reader.varint(), key >> 3 > 0, key >> 3 < 1 << 29 else { return nil }
      switch key & 7 {
      case 0:
        guard let value = reader.varint() else { return nil }
        fields.append(Field(number: key >> 3, value: .varint(value)))
      case 1, 5:
        guard let raw = reader.take(key & 7 == 1 ? 8 : 4) else { return nil }
        fields.append(Field(number: key >> 3, value: key & 7 == 1 ? .fixed64(raw) : .fixed32(raw)))
      case 2:
        guard let count = reader.varint(), count <= 1 << 30, let raw = reader.take(Int(count)) else { return nil }
        let isText = !raw.isEmpty && raw.allSatisfy { $0 >= 0x20 && $0 < 0x7F }
        if !isText, !raw.isEmpty, depth < Self.depthLimit, let inner = ProtobufTree(raw, depth: depth + 1) {
          fields.append(Field(number: key >> 3, value: .message(inner)))
        } else {
          fields.append(Field(number: key >> 3, value: .bytes(raw)))
        }
      default: return nil
      }
    }
  }

  private struct Reader {
    var bytes: ArraySlice<UInt8>
    mutating func varint() -> UInt64? {
      var value: UInt64 = 0
      for shift in stride(from: UInt64(0), to: 70, by: 7) {
        guard let byte = bytes.popFirst() else { return nil }
        value |= shift < 64 ? UInt64(byte & 0x7F) << shift : 0
        if byte & 0x80 == 0 { return value }
      }
      return nil
    }
    mutating func take(_ count: Int) -> [UInt8]? {
      guard count <= bytes.count else { return nil }
      defer { bytes = bytes.dropFirst(count) }
      return Array(bytes.prefix(count))
    }
  }

  static func append(_ value: UInt64, to output: inout [UInt8]) {
    var rest = value
    while rest >= 0x80 {
      output.append(UInt8(truncatingIfNeeded: rest) | 0x80)
      rest >>= 7
    }
    output.append(UInt8(rest))
  }

  var encoded: [UInt8] {
    var output: [UInt8] = []
    for field in fields {
      func key(_ type: UInt64) { Self.append(field.number << 3 | type, to: &output) }
      func delimited(_ bytes: [UInt8]) {
        key(2)
        Self.append(UInt64(bytes.count), to: &output)
        output += bytes
      }
      switch field.value {
      case .varint(let value):
        key(0)
        Self.append(value, to: &output)
      case .fixed64(let raw):
        key(1)
        output += raw
      case .fixed32(let raw):
        key(5)
        output += raw
      case .bytes(let raw): delimited(raw)
      case .message(let inner): delimited(inner.encoded)
      }
    }
    return output
  }

  /// Changes one field, mostly one that lies deep.
  mutating func change(_ random: inout FuzzRandom, dictionary: [[UInt8]]) {
    guard !fields.isEmpty else {
      fields.append(Field(number: UInt64(random.below(60) + 1), value: .varint(random.number())))
      return
    }
    let at = random.below(fields.count)
    if case .message(var inner) = fields[at].value, !random.oneIn(4) {
      inner.change(&random, dictionary: dictionary)
      fields[at].value = .message(inner)
      return
    }
    switch random.below(10) {
    case 0: fields.remove(at: at)
    case 1:
      let times = random.length(atMost: random.oneIn(32) ? 2048 : 4)
      fields.insert(contentsOf: repeatElement(fields[at], count: times), at: at)
    case 2: fields.swapAt(at, random.below(fields.count))
    case 3: fields[at].number = UInt64(random.below(random.oneIn(4) ? 1 << 20 : 60) + 1)
    case 4: fields[at].value = fields[random.below(fields.count)].value
    default: changeValue(at, &random, dictionary)
    }
  }

  private mutating func changeValue(_ at: Int, _ random: inout FuzzRandom, _ dictionary: [[UInt8]]) {
    switch fields[at].value {
    case .varint(let value):
      fields[at].value = .varint(random.oneIn(3) ? value &+ UInt64(random.below(5)) &- 2 : random.number())
    case .fixed64:
      let special: [Double] = [0, -0.0, -1, .nan, .infinity, -.infinity, .leastNonzeroMagnitude, 1e308, -1e308, 1]
      let bits = random.oneIn(2) ? random.pick(special).bitPattern : random.number()
      fields[at].value = .fixed64((0..<8).map { UInt8(truncatingIfNeeded: bits >> UInt64(8 * $0)) })
    case .fixed32:
      let special: [Float] = [0, -0.0, -1, .nan, .infinity, -.infinity, .leastNonzeroMagnitude, 3e38, -3e38, 1]
      let bits = random.oneIn(2) ? random.pick(special).bitPattern : UInt32(truncatingIfNeeded: random.number())
      fields[at].value = .fixed32((0..<4).map { UInt8(truncatingIfNeeded: bits >> UInt32(8 * $0)) })
    case .bytes(var raw):
      switch random.below(6) {
      case 0: raw = []
      case 1: raw += repeatElement(random.byte(), count: random.length(atMost: random.oneIn(16) ? 20_000 : 600))
      case 2 where !dictionary.isEmpty: raw = random.pick(dictionary)
      case 3 where !raw.isEmpty: raw.removeLast(random.length(atMost: raw.count))
      case 4: raw.insert(random.pick([0, 0xFF, 0xC0, 0x2F, 0x2E, 0x0A, 0x80]), at: random.below(raw.count + 1))
      default:
        if raw.isEmpty { raw = [0] }
        raw[random.below(raw.count)] = random.byte()
      }
      fields[at].value = .bytes(raw)
    case .message(let inner):
      var raw = inner.encoded
      if raw.isEmpty { raw = [0] }
      raw[random.below(raw.count)] = random.byte()
      fields[at].value = .bytes(raw)
    }
  }
}
