import Randomness
import TransfusionModel

/// Microbatches of random content in the make-up that the PyTorch peer measures with: each row is `patches` - 2
/// tokens of text, an opening token, an image, a closing token, over and over; what is left of the row is text.
public enum SyntheticMicrobatch {
  /// Images of one row.
  public static func imagesPerRow(length: Int, patches: Int) -> Int { length / (2 * patches) }

  /// - Parameters:
  ///   - seed: microbatches of different seeds differ in everything but their make-up.
  ///   - length: elements of a row, one document.
  public static func make(_ model: ModelConfiguration, rows: Int, length: Int, seed: UInt64) -> Microbatch {
    let patches = model.patchesPerImage
    let text = CounterStream(seed: seed, purpose: .permutation, stream: 0)
    let images = rows * imagesPerRow(length: length, patches: patches)
    var batch = Microbatch(
      rows: rows, length: length, tokens: [], keyStart: [], keyEnd: [], targetPositions: [], targetTokens: [],
      patchPositions: [], clean: [], noise: [], timesteps: [])
    for row in 0..<rows {
      let start = row * length
      /// End of the image that element n is in; nil for text.
      var imageEnd = [Int?](repeating: nil, count: length)
      for image in 0..<imagesPerRow(length: length, patches: patches) {
        let first = image * 2 * patches + patches - 1
        for n in first..<first + patches { imageEnd[n] = first + patches }
      }
      func token(_ n: Int) -> Int32 {
        3 + Int32(text.integer(UInt64(start + n), below: UInt32(model.vocabulary - 3)))
      }
      for n in 0..<length {
        batch.tokens.append(imageEnd[n] == nil ? token(n) : -1)
        batch.keyStart.append(Int32(start))
        batch.keyEnd.append(Int32(start + (imageEnd[n] ?? n + 1)))
        if imageEnd[n] != nil {
          batch.patchPositions.append(Int32(start + n))
        } else if n + 1 < length, imageEnd[n + 1] == nil {
          // The opening token's successor is a patch: nothing to predict there.
          batch.targetPositions.append(Int32(start + n))
          batch.targetTokens.append(token(n + 1))
        }
      }
    }
    batch.clean = gaussians(images * patches * model.patchElements, seed: seed, stream: 0)
    batch.noise = gaussians(images * patches * model.patchElements, seed: seed, stream: 1)
    let levels = CounterStream(seed: seed, purpose: .timestep, stream: 0)
    batch.timesteps = (0..<images).map { Int32(levels.integer(UInt64($0), below: UInt32(Stage.noiseLevels))) }
    return batch
  }

  private static func gaussians(_ count: Int, seed: UInt64, stream: UInt64) -> [Float] {
    var values = [Float](repeating: 0, count: count)
    CounterStream(seed: seed, purpose: .noise, stream: stream).fillGaussian(&values)
    return values
  }
}
