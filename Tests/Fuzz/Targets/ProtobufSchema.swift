import Foundation

/// The messages of a `.proto` file, read from its text, so that messages that are added are fuzzed from that day on.
///
/// It knows as much of the language as our files use: one message or enum after another, one field a line.
struct ProtobufSchema: Sendable {
  struct Field: Sendable {
    var name: String
    var number: UInt64
    var type: String
    var isRepeated = false
    var isOptional = false
    var isInOneof = false
  }
  private(set) var messages: [String: [Field]] = [:]
  private(set) var enums: [String: [UInt64]] = [:]

  init(text: String) {
    var message: String?
    var enumeration: String?
    var inOneof = false
    // A message on one line reads like one on several.
    let lines = text.replacing("{", with: "{\n").replacing("}", with: "\n}\n").replacing(";", with: ";\n")
      .split(separator: "\n")
    for line in lines {
      let code = line.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).first ?? ""
      let words = code.split { " =;".contains($0) }.map(String.init)
      guard let first = words.first, !line.trimmingCharacters(in: .whitespaces).hasPrefix("//") else { continue }
      switch first {
      case "message" where words.count > 1:
        message = words[1]
        messages[words[1]] = []
      case "enum" where words.count > 1:
        enumeration = words[1]
        enums[words[1]] = []
      case "oneof": inOneof = true
      case "}":
        if inOneof { inOneof = false } else if enumeration != nil { enumeration = nil } else { message = nil }
      default:
        if let enumeration {
          if words.count == 2, let number = UInt64(words[1]) { enums[enumeration]?.append(number) }
        } else if let message, words.count >= 3, let number = UInt64(words[words.count - 1]) {
          messages[message]?.append(
            Field(
              name: words[words.count - 2], number: number, type: words[words.count - 3],
              isRepeated: first == "repeated", isOptional: first == "optional", isInOneof: inOneof))
        }
      }
    }
  }

  /// A message that is valid as often as its names and types let one guess what is.
  func make(_ message: String, _ random: inout FuzzRandom, choosing chosen: UInt64? = nil, depth: Int = 0)
    -> ProtobufTree
  {
    var tree = ProtobufTree()
    if message == "Plan", !random.oneIn(8) { return plan(&random) }
    let fields = messages[message] ?? []
    let choices = fields.filter(\.isInOneof)
    let choice = chosen ?? (choices.isEmpty ? 0 : random.pick(choices).number)
    for field in fields {
      if field.isInOneof && field.number != choice { continue }
      if field.isOptional && random.oneIn(2) { continue }
      let count = field.isRepeated ? random.below(random.oneIn(16) ? 64 : 4) : 1
      if field.isRepeated, messages[field.type] == nil, field.type != "string", !random.oneIn(4) {
        var packed: [UInt8] = []
        for _ in 0..<count { ProtobufTree.append(number(field, &random), to: &packed) }
        tree.fields.append(ProtobufTree.Field(number: field.number, value: .bytes(packed)))
        continue
      }
      for _ in 0..<count {
        let value: ProtobufTree.Value
        switch field.type {
        case "string": value = .bytes(text(field, &random))
        case "bytes": value = .bytes((0..<random.pick([0, 1, 16, 32, 32, 40, 64])).map { _ in random.byte() })
        case "double":
          let double = random.oneIn(8) ? Double(bitPattern: random.next()) : Double(random.below(1 << 20)) / 64
          let bits = double.bitPattern
          value = .fixed64((0..<8).map { UInt8(truncatingIfNeeded: bits >> UInt64(8 * $0)) })
        default:
          if messages[field.type] != nil {
            guard depth < 8 else { continue }
            value = .message(make(field.type, &random, depth: depth + 1))
          } else {
            value = .varint(number(field, &random))
          }
        }
        tree.fields.append(ProtobufTree.Field(number: field.number, value: value))
      }
    }
    return tree
  }

  private func number(_ field: Field, _ random: inout FuzzRandom) -> UInt64 {
    if let values = enums[field.type], !random.oneIn(12) { return random.pick(values) }
    if field.type == "bool" { return UInt64(random.below(2)) }
    return random.oneIn(12) ? random.number() : UInt64(random.below(random.pick([4, 64, 4096])) + 1)
  }

  private func text(_ field: Field, _ random: inout FuzzRandom) -> [UInt8] {
    func hexadecimal(_ count: Int) -> [UInt8] { (0..<count).map { _ in random.pick(Array("0123456789abcdef".utf8)) } }
    if random.oneIn(16) { return (0..<random.length(atMost: 700)).map { _ in random.byte() } }
    switch field.name {
    case let name where name.contains("sha256") || name.contains("digest") || name.contains("fingerprint"):
      return hexadecimal(64)
    case "run": return hexadecimal(32)
    case "file": return Array("worker-000\(random.below(10)).h5".utf8)
    case "path": return Array("/parameters/model.layers.\(random.below(100)).weight".utf8)
    case let name where name.contains("endpoint"): return Array("tcp://127.0.0.1:\(random.below(70_000))".utf8)
    case "json": return Array("{\"version\":1}".utf8)
    default: return Array(repeating: UInt8(ascii: "a"), count: random.below(random.oneIn(32) ? 20_000 : 40) + 1)
    }
  }

  /// Ranges without gaps and one worker at every place, as a plan must be.
  private func plan(_ random: inout FuzzRandom) -> ProtobufTree {
    func ranges(_ number: UInt64) -> [ProtobufTree.Field] {
      var next: UInt64 = 0
      return (0..<random.below(5) + 1).map { _ in
        let upper = next + UInt64(random.below(4) + 1)
        var range = ProtobufTree()
        range.fields = [.init(number: 1, value: .varint(next)), .init(number: 2, value: .varint(upper))]
        next = upper
        return .init(number: number, value: .message(range))
      }
    }
    let stages = ranges(1)
    let replicas = ranges(2)
    var tree = ProtobufTree()
    tree.fields = stages + replicas
    for place in 0..<UInt64(stages.count * replicas.count) {
      tree.fields.append(.init(number: 3, value: .varint(place + 1)))
    }
    if random.oneIn(2) { tree.fields.append(.init(number: 4, value: .varint(1000))) }
    tree.fields.append(.init(number: 5, value: .varint(UInt64(random.below(2) + 1))))
    return tree
  }
}
