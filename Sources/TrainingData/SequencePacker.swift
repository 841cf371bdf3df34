/// A run of a document's tokens that stands in a sequence as a document of its own.
struct Segment: Hashable, Sendable {
  /// Number of the document in its set.
  var document: UInt64
  /// First token within the document.
  var start: UInt32
  /// Tokens; at most `mostTokens`.
  var count: UInt32
  /// Whether EOS follows. A text longer than a sequence is cut, and only its last piece ends in EOS [ours]: the
  /// model must not learn to stop in the middle of a sentence.
  var ends: Bool

  static let sizeBytes = 16
  static let mostTokens: UInt32 = 1 << 31 - 1
}

/// Best-fit packing of segments into sequences of one length, in one pass and bounded memory (recipe: whole
/// documents only, tails are padded [ours]).
struct SequencePacker {
  let length: Int
  /// Sequences kept open at most; the fullest is closed first.
  let mostOpen: Int
  private var open: [[Bin]]
  /// Bit r of word r / 64: there is an open sequence with r free positions.
  private var occupied: [UInt64]
  private var openCount = 0

  private struct Bin {
    var segments: [Segment]
  }

  /// No document is shorter than BOS, a token and EOS; sequences with less room are closed at once.
  static let leastRoom = 3

  init(length: Int, mostOpen: Int = 1024) {
    self.length = length
    self.mostOpen = mostOpen
    open = Array(repeating: [], count: length + 1)
    occupied = Array(repeating: 0, count: length / 64 + 1)
  }

  /// Adds a segment that takes `positions` positions.
  /// - Returns: a sequence that is complete now.
  mutating func add(_ segment: Segment, positions: Int) -> [Segment]? {
    precondition(positions <= length, "a segment is cut before it is packed")
    var bin: Bin
    var room: Int
    if let fitting = leastOccupied(from: positions) {
      bin = take(room: fitting)
      room = fitting
    } else {
      bin = Bin(segments: [])
      room = length
    }
    bin.segments.append(segment)
    room -= positions
    if room < Self.leastRoom { return bin.segments }
    put(bin, room: room)
    if openCount > mostOpen, let fullest = leastOccupied(from: 0) { return take(room: fullest).segments }
    return nil
  }

  /// Closes the next open sequence, fullest first; nil when none is left.
  mutating func closeNext() -> [Segment]? {
    guard let room = leastOccupied(from: 0) else { return nil }
    return take(room: room).segments
  }

  private mutating func put(_ bin: Bin, room: Int) {
    open[room].append(bin)
    occupied[room / 64] |= 1 << UInt64(room % 64)
    openCount += 1
  }

  private mutating func take(room: Int) -> Bin {
    let bin = open[room].removeLast()
    if open[room].isEmpty { occupied[room / 64] &= ~(1 << UInt64(room % 64)) }
    openCount -= 1
    return bin
  }

  private func leastOccupied(from room: Int) -> Int? {
    guard room <= length else { return nil }
    var word = room / 64
    var bits = occupied[word] & (~0 << UInt64(room % 64))
    while bits == 0 {
      word += 1
      guard word < occupied.count else { return nil }
      bits = occupied[word]
    }
    return word * 64 + bits.trailingZeroBitCount
  }
}

/// How documents become segments for one sequence length and patch size.
struct SegmentCutter {
  let length: Int
  let patchesPerImage: Int

  /// Positions that a pair takes beside its patches and its caption: BOS, BOI, EOI, EOS.
  static let pairFrame = 4

  /// Captions are cut to what fits beside the image: an image is never cut.
  var mostCaptionTokens: Int { length - patchesPerImage - Self.pairFrame }

  func positions(_ segment: Segment, source: DataSource) -> Int {
    switch source {
    case .images: Int(segment.count) + patchesPerImage + Self.pairFrame
    case .text: Int(segment.count) + (segment.ends ? 2 : 1)
    }
  }

  /// The segments of a document of `tokens` tokens.
  func segments(document: UInt64, tokens: Int, source: DataSource) -> [Segment] {
    switch source {
    case .images:
      return [Segment(document: document, start: 0, count: UInt32(min(tokens, mostCaptionTokens)), ends: true)]
    case .text:
      var pieces: [Segment] = []
      var start = 0
      while start < tokens {
        let rest = tokens - start
        let ends = rest <= length - 2
        // BOS and a full row of tokens, leaving at least one for the piece that carries EOS.
        let count = ends ? rest : min(length - 1, rest - 1)
        pieces.append(Segment(document: document, start: UInt32(start), count: UInt32(count), ends: ends))
        start += count
      }
      return pieces
    }
  }

  /// Target tokens of a segment whose caption is kept (recipe: position i counts when tokens i and i + 1 are both
  /// discrete). A pair has every caption token, BOI and EOS; a text its tokens and EOS where that follows.
  static func targets(count: Int, ends: Bool, source: DataSource) -> Int {
    switch source {
    case .images: count + 2
    case .text: count + (ends ? 1 : 0)
    }
  }
}
