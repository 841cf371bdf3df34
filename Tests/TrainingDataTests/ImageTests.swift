import Foundation
import Testing
import TrainingData

@Suite struct ImageTests {
  @Test func picturesSurvivePNG() throws {
    let picture = Corpus.picture(77, size: 33)
    #expect(try RGBImage(decoding: try picture.encodedPNG()) == picture)
  }

  @Test func transparencyLiesOverWhite() throws {
    // 4 x 4, transparent but for one red pixel.
    let file = """
      iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAYAAACp8Z5+AAAAEElEQVQI12P4z8Dwn4EyAACCwQH/V6yJ4QAAAABJRU5ErkJggg==
      """
    let image = try RGBImage(decoding: [UInt8](try #require(Data(base64Encoded: file))))
    #expect(image.pixels == [255, 0, 0] + [UInt8](repeating: 255, count: 45))
  }

  @Test func jpegIsDecoded() throws {
    let image = try RGBImage(decoding: jpeg)
    #expect(image.width == 16 && image.height == 8)
    #expect(image.pixels[0] > 240 && image.pixels[2] < 15)
    #expect(image.pixels[45] < 15 && image.pixels[47] > 240)
  }

  @Test func hostileFilesAreErrors() throws {
    let png = try Corpus.picture(5, size: 40).encodedPNG()
    // Cut off anywhere, or with any one byte changed, a file is an error or a picture, never more.
    for count in 0..<png.count - 12 {
      #expect(throws: DataError.self) { try RGBImage(decoding: Array(png.prefix(count))) }
    }
    for index in stride(from: 0, to: png.count, by: 3) {
      var changed = png
      changed[index] ^= 0x55
      _ = try? RGBImage(decoding: changed, mostPixels: 1 << 16)
    }
    for count in 0..<jpeg.count - 2 {
      #expect(throws: DataError.self) { try RGBImage(decoding: Array(jpeg.prefix(count))) }
    }
    for index in 2..<jpeg.count {
      var changed = jpeg
      changed[index] ^= 0x55
      _ = try? RGBImage(decoding: changed, mostPixels: 1 << 16)
    }
    #expect(dataError { _ = try RGBImage(decoding: png, mostPixels: 1599) }?.description.contains("limit") == true)
    // The size in a PNG's header is believed only up to the limit.
    var huge = png
    huge.replaceSubrange(16..<24, with: [0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF])
    #expect(throws: DataError.self) { try RGBImage(decoding: huge) }
  }

  @Test func squaresAreCutAndPaddedAroundTheMiddle() {
    let wide = RGBImage(width: 5, height: 2, pixels: (0..<10).flatMap { [UInt8($0), UInt8($0), UInt8($0)] })
    #expect(wide.centreCropped().pixels.enumerated().filter { $0.offset % 3 == 0 }.map(\.element) == [1, 2, 6, 7])
    let padded = wide.paddedToSquare()
    #expect(padded.width == 5 && padded.height == 5)
    #expect(padded.pixels[0] == 255 && padded.pixels[15] == 0 && padded.pixels[75 - 3] == 255)
    #expect(padded.pixels[30] == 5)
  }

  @Test func resizingAveragesAreas() {
    let pixels = (0..<16).flatMap { (index: Int) -> [UInt8] in
      let isWhite = (index + index / 4) % 2 == 1
      return [isWhite ? 200 : 0, UInt8(index), 9]
    }
    let board = RGBImage(width: 4, height: 4, pixels: pixels)
    let half = board.resized(width: 2, height: 2)
    #expect(half.pixels == [100, 3, 9, 100, 5, 9, 100, 11, 9, 100, 13, 9])
    #expect(board.resized(width: 4, height: 4) == board)
    let flat = RGBImage(width: 7, height: 5, pixels: [UInt8](repeating: 201, count: 105))
    for size in [1, 3, 7, 16] {
      #expect(flat.resized(width: size, height: size).pixels.allSatisfy { $0 == 201 })
    }
    let two = RGBImage(width: 2, height: 1, pixels: [0, 0, 0, 200, 200, 200])
    #expect(
      two.resized(width: 4, height: 1).pixels.enumerated().filter { $0.offset % 3 == 0 }.map(\.element) == [
        0, 50, 150, 200,
      ])
  }
}
