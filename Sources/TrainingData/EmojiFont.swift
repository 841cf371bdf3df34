import CImages

/// The colour bitmaps of an emoji font (`fonts-noto-color-emoji`: 136x128 PNG in its CBDT table).
public struct EmojiFont: ~Copyable {
  private let handle: OpaquePointer

  /// - Throws: `DataError.unusableSource` when the file cannot be read or holds no colour bitmaps.
  public init(path: String) throws(DataError) {
    var message = [CChar](repeating: 0, count: Int(CIM_ERROR_BYTES))
    guard let handle = cim_font_open(path, &message) else {
      throw .unusableSource(path: path, reason: CText.string(message))
    }
    self.handle = handle
  }

  deinit { cim_font_close(handle) }

  /// The drawing of one emoji, on white, padded to a square; nil when the font has no single glyph for the sequence.
  public func drawing(codePoints: [UInt32]) throws(DataError) -> RGBImage? {
    var bytes: UnsafeMutablePointer<UInt8>?
    var count = 0
    guard cim_font_png(handle, codePoints, codePoints.count, &bytes, &count), let bytes else { return nil }
    defer { cim_free(bytes) }
    return try RGBImage(decoding: Array(UnsafeBufferPointer(start: bytes, count: count))).paddedToSquare()
  }
}
