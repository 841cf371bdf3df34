import Foundation
import TrainingData

/// Pictures, through libpng and libturbojpeg.
extension FuzzTarget {
  static let images = [png, jpeg]

  /// What preparation does with a picture.
  private static func use(_ input: [UInt8]) throws -> FuzzOutcome {
    try outcome {
      let image = try RGBImage(decoding: input)
      try promise(
        image.width * image.height <= RGBImage.mostPixels && image.pixels.count == image.width * image.height * 3,
        "a picture of another size than it says")
      _ = image.centreCropped().resized(width: 16, height: 16)
      if max(image.width, image.height) < 256 { _ = image.paddedToSquare() }
    }
  }

  /// Besides what every input may take: tables of the libraries, and rows of 65,535 pixels.
  private static let heapLimitBytes = 16 << 20

  private static let png = FuzzTarget(
    "png", "RGBImage(decoding:) of PNG files, with the checksums of their chunks made right", shape: .bytes,
    dictionary: [
      "IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "iCCP", "sBIT", "cHRM", "sRGB", "zTXt", "iTXt", "bKGD", "acTL",
      "eXIf",
    ], sizeLimit: 1 << 14, heapLimitBytes: heapLimitBytes, heapFactor: 8 * 1032 * 6, share: 30,
    examples: { _ in [("plain", try picture(3).encodedPNG()), ("large", try picture(5, 24).encodedPNG())] }
  ) { _ in
    return { input in
      var input = input
      seal(&input)
      return try use(input)
    }
  }

  private static let jpeg = FuzzTarget(
    "jpeg", "RGBImage(decoding:) of JPEG files", shape: .bytes, sizeLimit: 1 << 14, heapLimitBytes: heapLimitBytes,
    heapFactor: 512 * 16, share: 30, examples: { _ in [] }
  ) { _ in
    return { input in try use(input) }
  }

  private static let table: [UInt32] = (0..<256).map { index in
    var value = UInt32(index)
    for _ in 0..<8 { value = value & 1 != 0 ? value >> 1 ^ 0xedb8_8320 : value >> 1 }
    return value
  }

  private static func seal(_ file: inout [UInt8]) {
    var at = 8
    while at + 12 <= file.count {
      var length = 0
      for i in 0..<4 { length = length << 8 | Int(file[at + i]) }
      let end = at + 8 + length
      guard end + 4 <= file.count else { return }
      var checksum: UInt32 = 0xFFFF_FFFF
      for byte in file[at + 4..<end] {
        checksum = table[Int(UInt8(truncatingIfNeeded: checksum) ^ byte)] ^ checksum >> 8
      }
      checksum = ~checksum
      for i in 0..<4 { file[end + i] = UInt8(truncatingIfNeeded: checksum >> UInt32(8 * (3 - i))) }
      at = end + 4
    }
  }
}
