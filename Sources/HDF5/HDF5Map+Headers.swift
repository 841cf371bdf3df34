extension HDF5Map {
  /// What the messages of an object's header say, as far as it matters here.
  struct Header {
    enum Layout {
      case compact(bytes: UInt64)
      case contiguous(address: UInt64, bytes: UInt64)
      case chunked
      case view
    }
    var type: HDF5ElementType?
    var extents: [UInt64]?
    var layout: Layout?
    var isExternal = false
    /// Links that stand in messages.
    var links: [HDF5Bytes] = []
    /// The fractal heap and the B-tree of the links that do not.
    var heap = HDF5Map.undefined
    var names = HDF5Map.undefined
    var isGroup = false

    var isDataset: Bool { type != nil && extents != nil && layout != nil }
  }

  /// Pieces of one header, and messages in all of them.
  private static let chunkLimit = 256
  private static let messageLimit = 1 << 17

  /// Reads the header of an object, of either version, with its continuations.
  ///
  /// ```
  /// version 2: "OHDR", 2, flags, [4 times], [2 limits], size of chunk 0 in 1 to 8 bytes, messages, checksum
  ///            message: type 1, size 2, flags 1, [order 2]
  /// version 1: 1, 0, messages 2, references 4, size of chunk 0 in 4, 4 zeros, messages
  ///            message: type 2, size 2, flags 1, 3 zeros
  /// ```
  func header(at address: UInt64, _ path: String) throws(HDF5Error) -> Header {
    // The prefix of either version fits into 16 bytes more often than not; one of version 2 has up to 34.
    var prefix = try bytes(at: address, count: min(34, endAddress - min(address, endAddress)), path)
    var isNew = false
    var hasOrder = false
    var start = address
    let size: UInt64
    var copy = prefix
    if copy.starts("OHDR") {
      prefix = copy
      isNew = true
      guard prefix.byte() == 2 else { throw malformed(path, "an object header of unknown version") }
      let flags = prefix.byte()
      hasOrder = flags & 0x04 != 0
      prefix.skip((flags & 0x20 != 0 ? 16 : 0) + (flags & 0x10 != 0 ? 4 : 0))
      size = prefix.integer(1 << Int(flags & 3))
      start += UInt64(prefix.at)
    } else {
      guard prefix.byte() == 1 else { throw malformed(path, "no object header") }
      prefix.skip(7)
      size = prefix.integer(4)
      start += 16
    }
    guard prefix.isWhole else { throw malformed(path, "an object header that is cut off") }
    var header = Header()
    var pending = [try bytes(at: start, count: size, path)]
    var chunks = 0
    var messages = 0
    while var chunk = pending.popLast() {
      chunks += 1
      guard chunks <= Self.chunkLimit else { throw malformed(path, "an object header of too many pieces") }
      // Less than a message's own header is left over as a gap.
      while chunk.left >= (isNew ? (hasOrder ? 6 : 4) : 8) {
        messages += 1
        guard messages <= Self.messageLimit else { throw malformed(path, "an object header of too many messages") }
        let type = chunk.integer(isNew ? 1 : 2)
        let size = chunk.integer(2)
        let flags = chunk.byte()
        chunk.skip(isNew ? (hasOrder ? 2 : 0) : 3)
        var body = chunk.piece(size)
        guard chunk.isWhole else { throw malformed(path, "a message that is cut off") }
        if type == 0x10 {
          let (at, length) = (body.integer(8), body.integer(8))
          guard body.isWhole, length >= 8 else { throw malformed(path, "a continuation that is cut off") }
          var next = try bytes(at: at, count: length, path)
          if isNew {
            guard next.starts("OCHK") else { throw malformed(path, "a continuation without its signature") }
            next = next.piece(length - 8)
          }
          pending.append(next)
          continue
        }
        guard flags & 0x02 == 0 || ![0x01, 0x03, 0x06, 0x08].contains(type) else {
          throw malformed(path, "a message that is shared with other objects")
        }
        try take(type, &body, into: &header, path)
      }
    }
    return header
  }

  private func take(_ type: UInt64, _ body: inout HDF5Bytes, into header: inout Header, _ path: String)
    throws(HDF5Error)
  {
    switch type {
    case 0x01: header.extents = try extents(&body, path)
    case 0x02:
      header.isGroup = true
      body.skip(1)
      let flags = body.byte()
      body.skip(flags & 1 != 0 ? 8 : 0)
      header.heap = body.integer(8)
      header.names = body.integer(8)
    case 0x03: header.type = Self.elementType(body.rest)
    case 0x06:
      header.isGroup = true
      header.links.append(body)
    case 0x07: header.isExternal = true
    case 0x08: header.layout = try layout(&body, path)
    case 0x11: throw malformed(path, "a group of a kind that this program does not write")
    default: break
    }
    guard body.isWhole else { throw malformed(path, "a message that is too short") }
  }

  /// Version 1: 1, rank, flags, 5 zeros, extents. Version 2: 2, rank, flags, kind, extents.
  private func extents(_ body: inout HDF5Bytes, _ path: String) throws(HDF5Error) -> [UInt64] {
    let version = body.byte()
    let rank = Int(body.byte())
    guard version == 1 || version == 2 else { throw malformed(path, "a dataspace of unknown version") }
    body.skip(1)
    if version == 1 {
      body.skip(5)
    } else {
      guard body.byte() < 2 else { throw malformed(path, "a dataspace without elements") }
    }
    guard rank <= HDF5File.rankLimit else {
      throw .wrongShape(
        file: file, object: path, shape: [], reason: "\(rank) dimensions, more than \(HDF5File.rankLimit)")
    }
    return (0..<rank).map { _ in body.integer(8) }
  }

  /// Version 3 and 4: version, class, then where the bytes are.
  private func layout(_ body: inout HDF5Bytes, _ path: String) throws(HDF5Error) -> Header.Layout {
    let version = body.byte()
    guard version == 3 || version == 4 else { throw malformed(path, "a layout of unknown version") }
    switch body.byte() {
    case 0: return .compact(bytes: body.integer(2))
    case 1: return .contiguous(address: body.integer(8), bytes: body.integer(8))
    case 2: return .chunked
    case 3: return .view
    default: throw malformed(path, "a layout of unknown class")
    }
  }

  /// Class and version share the first byte; the numbers that there are differ in what follows.
  private static func elementType(_ bytes: [UInt8]) -> HDF5ElementType {
    guard let first = bytes.first else { return .other }
    let known: [(HDF5ElementType, [UInt8])] = [
      (.float32, [1, 0x20, 31, 0, 4, 0, 0, 0, 0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0]),
      (.float64, [1, 0x20, 63, 0, 8, 0, 0, 0, 0, 0, 64, 0, 52, 11, 0, 52, 0xFF, 3, 0, 0]),
      (.int32, [0, 0x08, 0, 0, 4, 0, 0, 0, 0, 0, 32, 0]),
      (.int64, [0, 0x08, 0, 0, 8, 0, 0, 0, 0, 0, 64, 0]),
      (.uint8, [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 8, 0]),
    ]
    let plain = [first & 0x0F] + bytes.dropFirst()
    if let match = known.first(where: { plain.starts(with: $0.1) }) { return match.0 }
    return first & 0x0F <= 1 ? .otherNumber : .other
  }
}
