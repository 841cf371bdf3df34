/// The mapped documents of one source and split.
final class DocumentSet: Sendable {
  let documents: UInt64
  private let tokens: MappedFile
  private let offsets: MappedFile
  private let latents: MappedFile?
  private let tokenBytes: Int
  private let latentBytes: Int

  init(directory: String, description: DocumentsDescription, set: DocumentsDescription.DocumentSet)
    throws(DataError)
  {
    func map(_ file: StoredFile) throws(DataError) -> MappedFile {
      try MappedFile(path: directory + "/" + file.name, expectedBytes: file.sizeBytes)
    }
    documents = set.documents
    tokens = try map(set.tokenFile)
    offsets = try map(set.offsetFile)
    if let file = set.latentFile { latents = try map(file) } else { latents = nil }
    tokenBytes = description.tokenBytes
    latentBytes = description.codec.storedBytes
    let expected: [(file: MappedFile, elements: UInt64, width: Int)] =
      [(tokens, set.tokens, tokenBytes), (offsets, set.documents &+ 1, 8)]
      + (latents.map { [($0, set.documents, latentBytes)] } ?? [])
    for (file, elements, width) in expected {
      let (bytes, overflow) = elements.multipliedReportingOverflow(by: UInt64(width))
      guard !overflow, bytes == UInt64(file.count), set.documents < UInt64.max else {
        throw .damaged(path: file.path, reason: "its \(file.count) bytes are not \(elements) elements of \(width)")
      }
    }
    if set.source == .images && latents == nil {
      throw .damaged(path: tokens.path, reason: "the description names no latents for image-caption pairs")
    }
  }

  /// The tokens of a document as a range of the token file.
  private func range(_ document: UInt64) throws(DataError) -> Range<Int> {
    guard document < documents else {
      throw .damaged(path: offsets.path, reason: "document \(document) lies outside its \(documents)")
    }
    let start: UInt64 = try offsets.integer(Int(document))
    let end: UInt64 = try offsets.integer(Int(document) + 1)
    guard start <= end, end <= UInt64(tokens.count / tokenBytes) else {
      throw .damaged(path: offsets.path, reason: "document \(document) is said to be tokens \(start) to \(end)")
    }
    return Int(start)..<Int(end)
  }

  /// Tokens in a document.
  func length(_ document: UInt64) throws(DataError) -> Int { try range(document).count }

  /// Copies a segment's tokens; every one is checked against the vocabulary.
  func copy(_ segment: Segment, vocabulary: Int, into output: UnsafeMutablePointer<Int32>) throws(DataError) {
    let document = try range(segment.document)
    let start = document.lowerBound + Int(segment.start)
    let end = start + Int(segment.count)
    guard end <= document.upperBound else {
      throw .damaged(path: tokens.path, reason: "a segment reaches beyond document \(segment.document)")
    }
    let bytes = try tokens.bytes(start * tokenBytes..<end * tokenBytes)
    var largest: UInt32 = 0
    for i in 0..<Int(segment.count) {
      let token =
        tokenBytes == 2
        ? UInt32(UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)))
        : UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self))
      largest = max(largest, token)
      output[i] = Int32(truncatingIfNeeded: token)
    }
    guard largest < UInt32(vocabulary) else {
      throw .damaged(path: tokens.path, reason: "token \(largest) lies outside the vocabulary of \(vocabulary)")
    }
  }

  /// The stored latent of a pair; valid while the set lives.
  func latent(_ document: UInt64) throws(DataError) -> UnsafeRawBufferPointer {
    guard let latents, document < documents else {
      throw .damaged(path: tokens.path, reason: "document \(document) has no latent")
    }
    return try latents.bytes(Int(document) * latentBytes..<(Int(document) + 1) * latentBytes)
  }
}
