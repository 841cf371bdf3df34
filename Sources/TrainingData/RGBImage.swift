import CImages

/// A picture of 8-bit RGB pixels, rows from the top.
public struct RGBImage: Hashable, Sendable {
  public let width: Int
  public let height: Int
  /// width * height * 3 bytes: row, column, channel.
  public let pixels: [UInt8]

  /// Pictures of more pixels than this are refused before they are decoded (a decompression bomb).
  public static let mostPixels = 1 << 26

  public init(width: Int, height: Int, pixels: [UInt8]) {
    precondition(width > 0 && height > 0 && pixels.count == width * height * 3, "one byte per pixel and channel")
    self.width = width
    self.height = height
    self.pixels = pixels
  }

  /// Decodes a PNG or JPEG file, transparent parts over white.
  /// - Throws: `DataError.invalidImage` for anything else, for cut-off data and for more than `mostPixels`.
  public init(decoding file: [UInt8], mostPixels: Int = RGBImage.mostPixels) throws(DataError) {
    let png: [UInt8] = [0x89, 0x50, 0x4E, 0x47]
    let jpeg: [UInt8] = [0xFF, 0xD8]
    var rgb: UnsafeMutablePointer<UInt8>?
    var width: Int32 = 0
    var height: Int32 = 0
    var message = [CChar](repeating: 0, count: Int(CIM_ERROR_BYTES))
    let done: Bool
    if file.starts(with: png) {
      done = cim_decode_png(file, file.count, mostPixels, &rgb, &width, &height, &message)
    } else if file.starts(with: jpeg) {
      done = cim_decode_jpeg(file, file.count, mostPixels, &rgb, &width, &height, &message)
    } else {
      throw .invalidImage(reason: file.isEmpty ? "it is empty" : "neither PNG nor JPEG")
    }
    guard done, let rgb else { throw .invalidImage(reason: CText.string(message)) }
    defer { cim_free(rgb) }
    let count = Int(width) * Int(height) * 3
    self.init(width: Int(width), height: Int(height), pixels: Array(UnsafeBufferPointer(start: rgb, count: count)))
  }

  /// The picture as a PNG file.
  public func encodedPNG() throws(DataError) -> [UInt8] {
    var bytes: UnsafeMutablePointer<UInt8>?
    var count = 0
    var message = [CChar](repeating: 0, count: Int(CIM_ERROR_BYTES))
    guard cim_encode_png(pixels, Int32(width), Int32(height), &bytes, &count, &message), let bytes else {
      throw .invalidImage(reason: CText.string(message))
    }
    defer { cim_free(bytes) }
    return Array(UnsafeBufferPointer(start: bytes, count: count))
  }

  /// The picture in the middle of a square of its longer side, on white.
  public func paddedToSquare() -> RGBImage {
    let side = max(width, height)
    guard width != height else { return self }
    var square = [UInt8](repeating: 255, count: side * side * 3)
    let left = (side - width) / 2
    let top = (side - height) / 2
    for row in 0..<height {
      let source = row * width * 3
      let target = ((top + row) * side + left) * 3
      square.replaceSubrange(target..<target + width * 3, with: pixels[source..<source + width * 3])
    }
    return RGBImage(width: side, height: side, pixels: square)
  }

  /// The largest square around the middle (recipe: images are centre-cropped).
  public func centreCropped() -> RGBImage {
    let side = min(width, height)
    guard width != height else { return self }
    var square: [UInt8] = []
    square.reserveCapacity(side * side * 3)
    let left = (width - side) / 2
    let top = (height - side) / 2
    for row in 0..<side {
      let source = ((top + row) * width + left) * 3
      square.append(contentsOf: pixels[source..<source + side * 3])
    }
    return RGBImage(width: side, height: side, pixels: square)
  }

  /// The picture at another size: the mean of the covered area where it shrinks, bilinear where it grows.
  public func resized(width newWidth: Int, height newHeight: Int) -> RGBImage {
    if newWidth == width && newHeight == height { return self }
    let horizontal = ResizeFilter(from: width, to: newWidth)
    let vertical = ResizeFilter(from: height, to: newHeight)
    // Columns first, kept as numbers: rounding happens once, at the end.
    var narrow = [Float](repeating: 0, count: height * newWidth * 3)
    pixels.withUnsafeBufferPointer { source in
      narrow.withUnsafeMutableBufferPointer { target in
        for row in 0..<height {
          for column in 0..<newWidth {
            var sum = SIMD3<Float>()
            for tap in horizontal.taps[column] {
              let at = (row * width + tap.index) * 3
              sum += SIMD3(Float(source[at]), Float(source[at + 1]), Float(source[at + 2])) * tap.weight
            }
            for channel in 0..<3 { target[(row * newWidth + column) * 3 + channel] = sum[channel] }
          }
        }
      }
    }
    var result = [UInt8](repeating: 0, count: newHeight * newWidth * 3)
    let rowCount = newWidth * 3
    var sums = [Float](repeating: 0, count: rowCount)
    for row in 0..<newHeight {
      for i in 0..<rowCount { sums[i] = 0 }
      for tap in vertical.taps[row] {
        let source = tap.index * rowCount
        for i in 0..<rowCount { sums[i] += narrow[source + i] * tap.weight }
      }
      for i in 0..<rowCount { result[row * rowCount + i] = UInt8(min(255, max(0, sums[i].rounded()))) }
    }
    return RGBImage(width: newWidth, height: newHeight, pixels: result)
  }
}

/// Which old pixels, with which weights, make each new pixel along one axis; the weights of a pixel add up to 1.
struct ResizeFilter {
  struct Tap {
    var index: Int
    var weight: Float
  }
  var taps: [[Tap]]

  init(from old: Int, to new: Int) {
    let scale = Double(old) / Double(new)
    taps = (0..<new).map { position in
      if scale >= 1 {
        let low = Double(position) * scale
        let high = min(Double(position + 1) * scale, Double(old))
        var found: [Tap] = []
        var index = Int(low)
        while index < old && Double(index) < high {
          let covered = min(high, Double(index + 1)) - max(low, Double(index))
          if covered > 1e-9 { found.append(Tap(index: index, weight: Float(covered / (high - low)))) }
          index += 1
        }
        return found
      }
      let centre = (Double(position) + 0.5) * scale - 0.5
      let low = centre.rounded(.down)
      let share = Float(centre - low)
      let first = min(max(Int(low), 0), old - 1)
      let second = min(max(Int(low) + 1, 0), old - 1)
      return [Tap(index: first, weight: 1 - share), Tap(index: second, weight: share)]
    }
  }
}

enum CText {
  /// A zero-terminated message of a C shim.
  static func string(_ message: [CChar]) -> String {
    String(decoding: message.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
