extension HDF5Map {
  /// Longest name of a link, in bytes.
  private static let nameLimit = 1024

  /// The links of a group by name, from its messages or from its heap.
  func links(of group: Header, _ path: String) throws(HDF5Error) -> [String: Link] {
    var result: [String: Link] = [:]
    func add(_ body: HDF5Bytes) throws(HDF5Error) {
      let (name, link) = try self.link(body, path)
      guard result.updateValue(link, forKey: name) == nil else {
        throw malformed(path, "two links of one name")
      }
    }
    for body in group.links { try add(body) }
    if group.heap != Self.undefined {
      let heap = try FractalHeap(self, at: group.heap, path)
      for id in try heapIDs(at: group.names, heap.idBytes, path) { try add(try heap.object(self, id, path)) }
    }
    return result
  }

  /// Version, flags, [type], [order], [character set], length of the name in 1 to 8 bytes, name, target.
  private func link(_ body: HDF5Bytes, _ path: String) throws(HDF5Error) -> (String, Link) {
    var body = body
    guard body.byte() == 1 else { throw malformed(path, "a link of unknown version") }
    let flags = body.byte()
    let type = flags & 0x08 != 0 ? body.byte() : 0
    body.skip((flags & 0x04 != 0 ? 8 : 0) + (flags & 0x10 != 0 ? 1 : 0))
    let name = body.piece(body.integer(1 << Int(flags & 3)))
    guard body.isWhole, name.left <= Self.nameLimit, let name = name.text, !name.isEmpty, !name.contains("/") else {
      throw malformed(path, "a link without a proper name")
    }
    switch type {
    case 0:
      let address = body.integer(8)
      guard body.isWhole else { throw malformed(path, "a link that is cut off") }
      return (name, .hard(address))
    case 1: return (name, .soft)
    case 64: return (name, .external)
    default: return (name, .other)
    }
  }

  // MARK: The B-tree of names

  private static let recordLimit: UInt64 = UInt64(HDF5File.childLimit)

  /// Bytes that hold numbers up to `limit`.
  private static func width(_ limit: UInt64) -> Int { max(1, (64 - limit.leadingZeroBitCount + 7) / 8) }

  /// The heap's identifiers of all links, from a B-tree of version 2 and type 5.
  ///
  /// ```
  /// header: "BTHD", version, type, node size 4, record size 2, depth 2, 2 percentages, root 8, its records 2, all 8
  /// leaf:   "BTLF", version, type, records;    inner: "BTIN", version, type, records, children
  /// record: hash 4, identifier;                child: address 8, its records, [all below it]
  /// ```
  private func heapIDs(at address: UInt64, _ idBytes: Int, _ path: String) throws(HDF5Error) -> [HDF5Bytes] {
    var tree = try bytes(at: address, count: 34, path)
    guard tree.starts("BTHD"), tree.byte() == 0, tree.byte() == 5 else {
      throw malformed(path, "no index of its links")
    }
    let (nodeBytes, recordBytes, depth) = (tree.integer(4), tree.integer(2), Int(tree.integer(2)))
    tree.skip(2)
    let (root, records) = (tree.integer(8), tree.integer(2))
    // Nodes are as large as the library makes them by default, 512 bytes, or somewhat larger.
    guard nodeBytes >= 64, nodeBytes <= 1 << 16, recordBytes == UInt64(4 + idBytes), depth <= 8 else {
      throw malformed(path, "an index of its links that is of no use")
    }
    guard root != Self.undefined else { return [] }
    // Records and sizes of the pointers at each depth; what precedes and follows them in a node takes 10 bytes.
    var most = [(nodeBytes - 10) / recordBytes]
    var below = most
    let recordsWidth = Self.width(most[0])
    for level in 0..<depth {
      let pointer = UInt64(8 + recordsWidth + (level > 0 ? Self.width(below[level]) : 0))
      guard nodeBytes > 10 + pointer else { throw malformed(path, "an index of its links that is of no use") }
      let count = (nodeBytes - 10 - pointer) / (recordBytes + pointer)
      most.append(count)
      below.append(((count + 1).multipliedReportingOverflow(by: below[level]).partialValue) &+ count)
    }
    var result: [HDF5Bytes] = []
    var visits: UInt64 = 0
    var pending = [(address: root, records: records, level: depth)]
    while let (address, records, level) = pending.popLast() {
      visits += 1
      guard records <= most[level], visits <= Self.recordLimit, UInt64(result.count) + records <= Self.recordLimit
      else {
        throw malformed(path, "an index of its links with too many records")
      }
      var node = try bytes(at: address, count: nodeBytes, path)
      guard level > 0 ? node.starts("BTIN") : node.starts("BTLF"), node.byte() == 0, node.byte() == 5 else {
        throw malformed(path, "an index of its links with something else in it")
      }
      for _ in 0..<records {
        node.skip(4)
        result.append(node.piece(UInt64(idBytes)))
      }
      guard level > 0 else { continue }
      for _ in 0...records {
        let child = node.integer(8)
        let count = node.integer(recordsWidth)
        if level > 1 { node.skip(Self.width(below[level - 1])) }
        pending.append((child, count, level - 1))
      }
      guard node.isWhole else { throw malformed(path, "an index of its links that is cut off") }
    }
    return result
  }
}

/// The managed objects of a fractal heap: pieces of blocks that a doubling table finds by offset.
///
/// ```
/// row 0 and 1: `width` blocks of the starting size each; every further row doubles the size
/// rows up to the largest direct block are direct; blocks of later rows are tables themselves
/// ```
struct FractalHeap {
  let idBytes: Int
  private let offsetBytes: Int
  private let lengthBytes: Int
  private let tableWidth: UInt64
  private let startBytes: UInt64
  private let directRows: Int
  private let root: UInt64
  private let rootRows: Int

  /// "FRHP", version, identifier size 2, filter size 2, flags, largest object 4, 12 numbers of 8 bytes, table width 2,
  /// starting size 8, largest direct block 8, bits of offsets 2, first rows 2, root 8, its rows 2.
  init(_ map: HDF5Map, at address: UInt64, _ path: String) throws(HDF5Error) {
    var header = try map.bytes(at: address, count: 142, path)
    guard header.starts("FRHP"), header.byte() == 0 else { throw map.malformed(path, "no heap of its links") }
    let (id, filter, _, largest) = (header.integer(2), header.integer(2), header.byte(), header.integer(4))
    header.skip(96)
    let (width, start, direct, bits) = (header.integer(2), header.integer(8), header.integer(8), header.integer(2))
    header.skip(2)
    root = header.integer(8)
    rootRows = Int(header.integer(2))
    func isPower(_ value: UInt64) -> Bool { value.nonzeroBitCount == 1 }
    guard filter == 0, isPower(width), width <= 1 << 10, isPower(start), isPower(direct), start <= direct,
      direct <= 1 << 32, bits >= 8, bits <= 64, rootRows <= 64
    else { throw map.malformed(path, "a heap of its links that is of no use") }
    tableWidth = width
    startBytes = start
    directRows = direct.trailingZeroBitCount - start.trailingZeroBitCount + 2
    offsetBytes = Int(bits + 7) / 8
    let longest = max(1, min(direct, largest))
    lengthBytes = (64 - longest.leadingZeroBitCount + 7) / 8
    idBytes = Int(id)
    guard idBytes >= 1 + offsetBytes + lengthBytes, idBytes <= 64 else {
      throw map.malformed(path, "a heap of its links with short identifiers")
    }
  }

  /// The bytes that an identifier names.
  func object(_ map: HDF5Map, _ id: HDF5Bytes, _ path: String) throws(HDF5Error) -> HDF5Bytes {
    var id = id
    // Version and kind: only managed objects, which all links with names of reasonable length are.
    guard id.byte() & 0xF0 == 0 else { throw map.malformed(path, "a link that is stored by itself") }
    var offset = id.integer(offsetBytes)
    let length = id.integer(lengthBytes)
    var block = root
    var rows = rootRows
    // Each table inside a table covers a smaller part: the depth is bounded by the bits of an offset.
    for _ in 0..<64 {
      if rows == 0 {
        let (address, overflow) = block.addingReportingOverflow(offset)
        guard !overflow else { break }
        return try map.bytes(at: address, count: length, path)
      }
      let (row, column, inside) = place(offset)
      guard row < rows else { break }
      // "FHIB", version, header 8, offset; then addresses of 8 bytes, direct blocks first.
      let entry = UInt64(13 + offsetBytes) + (UInt64(row) * tableWidth + column) * 8
      let (address, overflow) = block.addingReportingOverflow(entry)
      guard block != HDF5Map.undefined, !overflow else { break }
      var pointer = try map.bytes(at: address, count: 8, path)
      block = pointer.integer(8)
      offset = inside
      if row < directRows {
        rows = 0
      } else {
        let size = startBytes.trailingZeroBitCount + row - 1
        rows = size - startBytes.trailingZeroBitCount - tableWidth.trailingZeroBitCount + 1
        guard rows > 0 else { break }
      }
    }
    throw map.malformed(path, "a link that is not in its heap")
  }

  /// Row and column of the block that an offset lies in, and the offset inside that block.
  private func place(_ offset: UInt64) -> (row: Int, column: UInt64, inside: UInt64) {
    let (rowBytes, overflow) = startBytes.multipliedReportingOverflow(by: tableWidth)
    if overflow || offset < rowBytes { return (0, offset / startBytes, offset % startBytes) }
    // Row r begins at rowBytes << (r - 1) and has blocks of startBytes << (r - 1).
    let row = 64 - (offset / rowBytes).leadingZeroBitCount
    let rowStart = rowBytes << UInt64(row - 1)
    let blockBytes = startBytes << UInt64(row - 1)
    return (row, (offset - rowStart) / blockBytes, (offset - rowStart) % blockBytes)
  }
}
