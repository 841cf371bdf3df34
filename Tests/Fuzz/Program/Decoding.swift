import CFuzzWatch
import Foundation
import FuzzTargets

/// The process that decodes: first the corpus, then changed inputs, one after another until something breaks.
struct Decoding {
  let page: UnsafeMutablePointer<fuzz_page>
  let scratch: String
  /// Numbers of the inputs; those of the corpus are below 0 counted from its end.
  let first: Int
  let count: Int
  let target: FuzzTarget
  let corpus: String
  let seed: UInt64

  static let addressBytes: UInt64 = 6 << 30
  /// Heap that inputs may keep, all together: libraries have caches.
  static let keptLimitBytes: UInt64 = 256 << 20

  init(arguments: String, target: FuzzTarget, corpus: String, seed: UInt64, corpusOnly: Bool) throws {
    let parts = arguments.split(separator: ",").map(String.init)
    guard parts.count == 4, let first = Int(parts[2]), let count = Int(parts[3]),
      let page = fuzz_page_open(parts[0], false)
    else { throw CocoaError(.fileReadUnknown) }
    self.page = page
    scratch = parts[1]
    self.first = first
    self.count = count
    self.target = target
    self.corpus = corpus
    self.seed = seed
  }

  func run() throws {
    fuzz_limit(Self.addressBytes)
    let inputs = try Corpus(corpus, target.name).read().map(\.bytes)
    let decode = try target.prepare(scratch)
    var mutator = Mutator(
      shape: target.shape, examples: inputs.filter { $0.count <= target.sizeLimit }, dictionary: target.dictionary,
      sizeLimit: target.sizeLimit)
    var seen: Set<UInt64> = []
    var input: [UInt8] = []
    for index in first..<count {
      var random = FuzzRandom(seed: seed, target: target.name, index: UInt64(bitPattern: Int64(index)))
      if index < 0 {
        // A corpus that shrank meanwhile has nothing there.
        guard inputs.count + index >= 0 else { continue }
        input = inputs[inputs.count + index]
      } else if let generate = target.generate, random.oneIn(4) {
        input = generate(&random)
        if input.count > target.sizeLimit { input.removeLast(input.count - target.sizeLimit) }
      } else {
        mutator.make(&input, &random)
      }
      fuzz_begin(page, UInt64(bitPattern: Int64(index)), input, input.count)
      let signature = result(of: decode, input, look: index >= 0 && index % target.lookEvery == 0)
      let peak = fuzz_end(page)
      let limit = target.heapLimitBytes + target.heapFactor * input.count
      if peak > UInt64(limit) { stop("it took \(peak) bytes of heap for \(input.count) bytes of input") }
      if page.pointee.kept_bytes > Self.keptLimitBytes {
        stop("inputs up to this one have kept \(page.pointee.kept_bytes) bytes")
      }
      if let signature, seen.insert(signature).inserted { mutator.keep(input, &random) }
    }
  }

  /// Decodes one input. What it was made of is gone when this returns, and with it its memory.
  @inline(never) private func result(of decode: FuzzTarget.Run, _ input: [UInt8], look: Bool) -> UInt64? {
    do {
      let outcome = try decode(input)
      if case .accepted = outcome { page.pointee.accepted += 1 }
      return look ? outcome.signature : nil
    } catch {
      stop("\(error)")
    }
  }

  private func stop(_ reason: String) -> Never {
    withUnsafeMutableBytes(of: &page.pointee.message) { room in
      let text = Array(reason.utf8.prefix(room.count - 1)) + [0]
      room.copyBytes(from: text)
    }
    page.pointee.finding = 1
    exit(1)
  }
}
