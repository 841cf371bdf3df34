import KernelInterface

/// Where attention looks: the grid of tiles over queries and keys, and the part of it that the intervals reach.
///
/// T tokens, E head size. The grid starts at row 0 and depends on T alone.
struct AttentionPlan {
  static let queryTile = 256
  static let keyTile = 256

  let queries: TileCut
  let keys: TileCut
  /// Smallest key start and largest key end of each tile of queries.
  private var reach: [Range<Int>] = []
  /// Ranges of rows, cut between tiles, that no interval crosses.
  private(set) var segments: [Range<Int>] = []

  init(tokens: Int, keyStart: UnsafePointer<Int32>, keyEnd: UnsafePointer<Int32>) {
    queries = TileCut(total: tokens, size: min(Self.queryTile, max(tokens, 1)))
    keys = TileCut(total: tokens, size: min(Self.keyTile, max(tokens, 1)))
    for tile in 0..<queries.count {
      var lower = Int.max
      var upper = Int.min
      for query in queries.range(tile) {
        precondition(
          keyStart[query] >= 0 && keyStart[query] < keyEnd[query] && Int(keyEnd[query]) <= tokens,
          "query \(query) sees keys \(keyStart[query])..<\(keyEnd[query]) of \(tokens)")
        lower = min(lower, Int(keyStart[query]))
        upper = max(upper, Int(keyEnd[query]))
      }
      reach.append(lower..<upper)
    }
    findSegments()
  }

  private mutating func findSegments() {
    var start = 0
    var furthest = 0
    for key in 0..<keys.count {
      let range = keys.range(key)
      for tile in queryTiles(in: range) { furthest = max(furthest, reach[tile].upperBound) }
      let end = range.upperBound
      // Behind the last row lies no tile, even where the last one is not full.
      let later = end < queries.total ? queryTiles(in: end..<queries.total) : 0..<0
      let crossed = furthest > end || later.contains { reach[$0].lowerBound < end }
      if !crossed {
        segments.append(start..<end)
        start = end
      }
    }
  }

  /// Tiles of queries within rows that begin and end between tiles of keys.
  func queryTiles(in rows: Range<Int>) -> Range<Int> {
    rows.isEmpty ? 0..<0 : rows.lowerBound / queries.size..<(rows.upperBound + queries.size - 1) / queries.size
  }

  func keyTiles(in rows: Range<Int>) -> Range<Int> {
    rows.lowerBound / keys.size..<(rows.upperBound + keys.size - 1) / keys.size
  }

  /// Tiles of keys that some query of the tile sees.
  func keyTiles(seenBy queryTile: Int) -> Range<Int> { keyTiles(in: reach[queryTile]) }

  func sees(queryTile: Int, keyTile: Int) -> Bool { keyTiles(seenBy: queryTile).contains(keyTile) }
}

/// Which part of a tile its queries see, by strip of queries and by strip of keys, so that products leave out the rest:
/// of causal tiles on the diagonal nearly half.
struct TileReach {
  /// Lines of a strip; nil where products make whole tiles.
  private let strip: Int?
  /// Keys that the queries of a strip see, and queries that see the keys of one; relative to the tile.
  private let byQuery, byKey: UnsafeMutablePointer<Range<Int32>>

  /// What `init` is to be given.
  static func bytes(_ plan: AttentionPlan) -> Int {
    (plan.queries.size + plan.keys.size) * MemoryLayout<Range<Int32>>.stride
  }

  init(_ kernels: ProductKernels?, _ plan: AttentionPlan, in memory: MutableBytes) {
    strip = kernels?.leftLines
    byQuery = memory.assumingMemoryBound(to: Range<Int32>.self)
    byKey = byQuery + plan.queries.size
  }

  /// Looks at a tile: the intervals are those of its queries.
  func find(_ tile: KeyIntervals, withKeys: Bool) {
    guard let strip else { return }
    let (first, last) = (Int32(tile.firstKey), Int32(tile.keys))
    let queryStrips = (tile.queries + strip - 1) / strip
    for index in 0..<queryStrips {
      var (lower, upper) = (last, Int32(0))
      for query in index * strip..<min((index + 1) * strip, tile.queries) {
        let (start, end) = (max(tile.keyStart[query] - first, 0), min(tile.keyEnd[query] - first, last))
        if start < end { (lower, upper) = (min(lower, start), max(upper, end)) }
      }
      byQuery[index] = lower < upper ? lower..<upper : 0..<0
    }
    if !withKeys { return }
    for index in 0..<(tile.keys + strip - 1) / strip {
      let keys = Int32(index * strip)..<Int32((index + 1) * strip)
      let seeing = { (queries: Int) in byQuery[queries].overlaps(keys) }
      if let lower = (0..<queryStrips).first(where: seeing), let upper = (0..<queryStrips).last(where: seeing) {
        byKey[index] = Int32(lower * strip)..<Int32(min((upper + 1) * strip, tile.queries))
      } else {
        byKey[index] = 0..<0
      }
    }
  }

  /// For a product whose rows are queries and whose `axis` is keys.
  func keys(_ axis: ProductReach.Axis) -> ProductReach? { strip.map { _ in ProductReach(axis, byQuery) } }
  /// For a product whose rows are keys and whose `axis` is queries.
  func queries(_ axis: ProductReach.Axis) -> ProductReach? { strip.map { _ in ProductReach(axis, byKey) } }
}

/// The matrix products of one kind on every shape of tile: full or last in queries, full or last in keys.
struct AttentionProducts {
  private let primitives: [MatmulPrimitive]

  init(
    _ plan: AttentionPlan, _ cache: MatmulCache, _ shape: (_ queries: Int, _ keys: Int) -> MatmulShape
  ) throws(DeviceError) {
    var made: [MatmulPrimitive] = []
    for queries in [plan.queries.size, plan.queries.lastSize] {
      for keys in [plan.keys.size, plan.keys.lastSize] { made.append(try cache.primitive(shape(queries, keys))) }
    }
    primitives = made
  }

  func primitive(_ plan: AttentionPlan, _ queryTile: Int, _ keyTile: Int) -> MatmulPrimitive {
    primitives[(queryTile == plan.queries.count - 1 ? 2 : 0) + (keyTile == plan.keys.count - 1 ? 1 : 0)]
  }
}

/// Sizes and memory of one attention call; pointers hold elements of `type`.
struct AttentionOperands {
  var tokens: Int
  var heads: Int
  var keyValueHeads: Int
  var headSize: Int
  var type: ElementType
  var qkv: Bytes
  var keyStart: UnsafePointer<Int32>
  var keyEnd: UnsafePointer<Int32>
  var logSumExp: MutableFloats

  /// Query heads that share one key-value head.
  var group: Int { heads / keyValueHeads }
  /// Elements between rows of qkv.
  var stride: Int { (heads + 2 * keyValueHeads) * headSize }
  /// Elements between rows of the output.
  var outputStride: Int { heads * headSize }
  /// First element of a row's query, key or value within qkv.
  func query(_ head: Int) -> Int { head * headSize }
  func key(_ keyValueHead: Int) -> Int { (heads + keyValueHead) * headSize }
  func value(_ keyValueHead: Int) -> Int { (heads + keyValueHeads + keyValueHead) * headSize }
  func bytes(_ row: Int, _ element: Int) -> Int { (row * stride + element) * type.sizeBytes }
  func outputBytes(_ row: Int, _ head: Int) -> Int { (row * outputStride + head * headSize) * type.sizeBytes }
  var scale: Float { 1 / Float(headSize).squareRoot() }
  /// What a tile's queries see, relative to its keys.
  func intervals(_ queries: Range<Int>, _ keys: Range<Int>) -> KeyIntervals {
    KeyIntervals(
      keyStart: keyStart + queries.lowerBound, keyEnd: keyEnd + queries.lowerBound, firstKey: keys.lowerBound,
      queries: queries.count, keys: keys.count)
  }
}
