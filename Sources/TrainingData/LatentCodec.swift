import Randomness

/// How the latents of images are stored and become the numbers that the model is trained on.
///
/// The pixel codec is the first; a VAE stores moments and samples them by the stream it is given.
package protocol LatentCodec: Sendable {
  /// Channels of the latent.
  var channels: Int { get }
  /// Height and width of the latent.
  var latentSize: Int { get }
  /// Bytes that one image takes in the documents.
  var storedBytes: Int { get }
  /// Writes one latent cut into patches: [P, K], patches in raster order, a patch as (channel, row, column).
  ///
  /// - Parameters:
  ///   - stored: `storedBytes` bytes as the documents hold them.
  ///   - draw: random numbers of this sample and image, for codecs that sample.
  func patches(
    stored: UnsafeRawBufferPointer, patch: Int, draw: CounterStream, into output: UnsafeMutableBufferPointer<Float>)
}

/// Pixels as the latent: planes of bytes [C, H, W], normalised to zero mean and unit variance per channel over the
/// training images (recipe: latents are normalised to unit variance per channel [ours]).
public struct PixelCodec: LatentCodec, Hashable, Codable {
  public let latentSize: Int
  /// Mean and standard deviation of each channel in byte units.
  public let mean: [Double]
  public let deviation: [Double]

  public var channels: Int { 3 }
  public var storedBytes: Int { 3 * latentSize * latentSize }

  public init(latentSize: Int, mean: [Double], deviation: [Double]) {
    self.latentSize = latentSize
    self.mean = mean
    self.deviation = deviation
  }

  package func patches(
    stored: UnsafeRawBufferPointer, patch: Int, draw: CounterStream, into output: UnsafeMutableBufferPointer<Float>
  ) {
    precondition(stored.count == storedBytes && output.count == storedBytes, "one number per stored byte")
    let side = latentSize / patch
    let elements = 3 * patch * patch
    for channel in 0..<3 {
      let shift = Float(mean[channel])
      let scale = Float(1 / deviation[channel])
      for row in 0..<latentSize {
        let source = (channel * latentSize + row) * latentSize
        let patchRow = row / patch * side * elements + (channel * patch + row % patch) * patch
        for patchColumn in 0..<side {
          for column in 0..<patch {
            output[patchRow + patchColumn * elements + column] =
              (Float(stored[source + patchColumn * patch + column]) - shift) * scale
          }
        }
      }
    }
  }

  /// The bytes that the documents hold for a picture of `latentSize` x `latentSize` pixels.
  func stored(_ image: RGBImage) -> [UInt8] {
    var planes = [UInt8](repeating: 0, count: storedBytes)
    let area = latentSize * latentSize
    for pixel in 0..<area {
      for channel in 0..<3 { planes[channel * area + pixel] = image.pixels[3 * pixel + channel] }
    }
    return planes
  }

  /// The picture that stored bytes show.
  func image(stored: UnsafeRawBufferPointer) -> RGBImage {
    let area = latentSize * latentSize
    var pixels = [UInt8](repeating: 0, count: storedBytes)
    for pixel in 0..<area {
      for channel in 0..<3 { pixels[3 * pixel + channel] = stored[channel * area + pixel] }
    }
    return RGBImage(width: latentSize, height: latentSize, pixels: pixels)
  }
}
