import CSentencePiece
import Foundation

/// The ids of the tokens that are not text.
public struct SpecialTokens: Hashable, Sendable, Codable {
  /// Where nothing is: the model's padding token, or its unknown token where it has none.
  public var padding: Int32
  public var bos: Int32
  public var eos: Int32
  /// Begin and end of an image.
  public var boi: Int32
  public var eoi: Int32

  public init(padding: Int32, bos: Int32, eos: Int32, boi: Int32, eoi: Int32) {
    self.padding = padding
    self.bos = bos
    self.eos = eos
    self.boi = boi
    self.eoi = eoi
  }
}

/// A SentencePiece model with the two image tokens.
///
/// `<boi>` and `<eoi>` are looked up by name; a model without them (Llama's, Mistral's) gets them appended
/// after its last piece [ours].
// @unchecked: the handle is never changed after loading, and SentencePiece's const methods may run in parallel.
public final class Tokenizer: @unchecked Sendable {
  public static let imageTokens = ["<boi>", "<eoi>"]

  public let name: String
  /// The serialized SentencePiece model.
  public let model: [UInt8]
  public let special: SpecialTokens
  /// Pieces of the model and appended image tokens together: the V of the configuration.
  public let vocabulary: Int
  private let pieces: Int
  private let handle: OpaquePointer

  /// - Parameter name: what error messages call it, normally its path.
  /// - Throws: `DataError.tokenizer` when the bytes are no SentencePiece model or lack BOS or EOS.
  public init(model: [UInt8], name: String) throws(DataError) {
    var message = [CChar](repeating: 0, count: Int(CSP_ERROR_BYTES))
    guard let handle = csp_load(model, model.count, &message) else {
      throw .tokenizer(name: name, reason: "is not a SentencePiece model: \(CText.string(message))")
    }
    // Assigned at once so that deinit closes the handle when a check below throws.
    self.handle = handle
    self.name = name
    self.model = model
    pieces = Int(csp_vocabulary(handle))
    let bos = csp_bos(handle)
    let eos = csp_eos(handle)
    let boi = csp_id(handle, Self.imageTokens[0])
    let eoi = csp_id(handle, Self.imageTokens[1])
    let appended = boi < 0 && eoi < 0
    vocabulary = pieces + (appended ? 2 : 0)
    special = SpecialTokens(
      padding: csp_pad(handle) >= 0 ? csp_pad(handle) : max(0, csp_unk(handle)), bos: bos, eos: eos,
      boi: appended ? Int32(pieces) : boi, eoi: appended ? Int32(pieces) + 1 : eoi)
    guard bos >= 0, eos >= 0 else {
      throw .tokenizer(name: name, reason: "has no \(bos < 0 ? "BOS" : "EOS") token: train it with one")
    }
    // A piece that text can spell would let a caption open an image.
    guard appended || (csp_is_control(handle, boi) && csp_is_control(handle, eoi)) else {
      throw .tokenizer(name: name, reason: "needs <boi> and <eoi> both as control symbols, or neither")
    }
  }

  deinit { csp_close(handle) }

  /// Loads a `.model` file.
  public static func load(path: String) throws(DataError) -> Tokenizer {
    var reader = try FileReader(path: path)
    guard reader.sizeBytes <= 1 << 28 else {
      throw .tokenizer(name: path, reason: "has \(reader.sizeBytes) bytes: not a SentencePiece model")
    }
    return try Tokenizer(model: try reader.bytes(Int(reader.sizeBytes)), name: path)
  }

  /// The tokens of a text, without BOS and EOS.
  public func encode(_ text: String) throws(DataError) -> [Int32] {
    var ids: UnsafeMutablePointer<Int32>?
    var count = 0
    var message = [CChar](repeating: 0, count: Int(CSP_ERROR_BYTES))
    var text = text
    let done = text.withUTF8 { utf8 in
      utf8.withMemoryRebound(to: CChar.self) { csp_encode(handle, $0.baseAddress, $0.count, &ids, &count, &message) }
    }
    guard done, let ids else { throw .tokenizer(name: name, reason: CText.string(message)) }
    defer { csp_free(ids) }
    return Array(UnsafeBufferPointer(start: ids, count: count))
  }

  /// The text of tokens; special tokens leave nothing behind.
  /// - Throws: `DataError.tokenizer` for an id outside the vocabulary.
  public func decode(_ tokens: [Int32]) throws(DataError) -> String {
    let known = tokens.filter { $0 < Int32(pieces) || $0 >= Int32(vocabulary) }
    var bytes: UnsafeMutablePointer<CChar>?
    var count = 0
    var message = [CChar](repeating: 0, count: Int(CSP_ERROR_BYTES))
    guard csp_decode(handle, known, known.count, &bytes, &count, &message), let bytes else {
      throw .tokenizer(name: name, reason: CText.string(message))
    }
    defer { csp_free(bytes) }
    return String(decoding: UnsafeRawBufferPointer(start: bytes, count: count), as: UTF8.self)
  }

  /// The piece with an id as the model spells it ("▁the", "<0x0A>"), or nil outside the vocabulary.
  public func piece(_ id: Int32) -> String? {
    if id >= Int32(pieces) && id < Int32(vocabulary) { return Self.imageTokens[Int(id) - pieces] }
    var bytes: UnsafeMutablePointer<CChar>?
    var count = 0
    guard csp_piece(handle, id, &bytes, &count), let bytes else { return nil }
    defer { csp_free(bytes) }
    return String(decoding: UnsafeRawBufferPointer(start: bytes, count: count), as: UTF8.self)
  }
}
