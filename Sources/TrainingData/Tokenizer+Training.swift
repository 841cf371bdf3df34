import CSentencePiece

/// A bounded, deterministic choice from a stream of texts, for training a tokenizer on.
///
/// Keeps a text when the hash of its number lies below a threshold that halves whenever the bound is exceeded:
/// what is kept spreads evenly over the stream and does not depend on how often it was cut.
public struct TextSample: Sendable {
  public let mostBytes: Int
  private var kept: [(hash: UInt64, line: String)] = []
  private var bytes = 0
  private var threshold = UInt64.max
  private var count: UInt64 = 0

  public init(mostBytes: Int) { self.mostBytes = mostBytes }

  /// Text kept so far.
  public var sizeBytes: Int { bytes }
  public var isEmpty: Bool { kept.isEmpty }

  /// Offers one text; its lines become sentences of their own.
  public mutating func offer(_ text: String) {
    count += 1
    let hash = Self.mix(count)
    guard hash <= threshold else { return }
    for line in text.split(separator: "\n") {
      kept.append((hash, String(line)))
      bytes += line.utf8.count
    }
    while bytes > mostBytes && threshold > 1 {
      threshold /= 2
      kept.removeAll { $0.hash > threshold }
      bytes = kept.reduce(0) { $0 + $1.line.utf8.count }
    }
  }

  var lines: [String] { kept.map(\.line) }

  /// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
  static func mix(_ value: UInt64) -> UInt64 {
    var z = value &* 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

extension Tokenizer {
  /// Trains a BPE model with byte fallback, single digits and the settings of Llama's tokenizer.
  ///
  /// Ids: unknown and padding 0, BOS 1, EOS 2, `<boi>` 3, `<eoi>` 4, then bytes and pieces.
  /// - Throws: `DataError.tokenizer` when the text is too little for the vocabulary or the vocabulary too small for
  ///   its characters.
  public static func train(vocabulary: Int, on sample: TextSample) throws(DataError) -> Tokenizer {
    let name = "training with --vocabulary \(vocabulary)"
    guard (300...1_000_000).contains(vocabulary) else {
      throw .tokenizer(name: name, reason: "choose a vocabulary between 300 and 1000000")
    }
    guard !sample.isEmpty else { throw .tokenizer(name: name, reason: "the sources hold no text to train on") }
    let sentences = Sentences(sample.lines)
    var model: UnsafeMutablePointer<UInt8>?
    var count = 0
    var message = [CChar](repeating: 0, count: Int(CSP_ERROR_BYTES))
    let done = withExtendedLifetime(sentences) {
      csp_train(
        Int32(vocabulary), imageTokens.joined(separator: ","),
        { context, bytes, count in
          let sentences = Unmanaged<Sentences>.fromOpaque(context!).takeUnretainedValue()
          guard sentences.advance() else { return false }
          sentences.current.withUnsafeBufferPointer { current in
            // Safe because the array lives until the next call, which is how long the reader may look.
            bytes!.pointee = UnsafeRawPointer(current.baseAddress!).assumingMemoryBound(to: CChar.self)
            count!.pointee = current.count
          }
          return true
        }, Unmanaged.passUnretained(sentences).toOpaque(), &model, &count, &message)
    }
    guard done, let model else {
      throw .tokenizer(
        name: name,
        reason: "\(CText.string(message)): choose a vocabulary that fits the amount of text and its characters")
    }
    defer { csp_free(model) }
    return try Tokenizer(model: Array(UnsafeBufferPointer(start: model, count: count)), name: name)
  }

  /// Hands sentences to the C++ trainer one by one.
  private final class Sentences {
    private let lines: [String]
    private var next = 0
    private(set) var current: [UInt8] = []

    init(_ lines: [String]) { self.lines = lines }

    func advance() -> Bool {
      guard next < lines.count else { return false }
      current = Array(lines[next].utf8)
      next += 1
      return !current.isEmpty || advance()
    }
  }
}
