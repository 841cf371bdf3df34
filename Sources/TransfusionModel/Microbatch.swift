/// The input of one forward and backward pass: packed rows of whole documents, as host arrays.
///
/// Rows are flattened: position `b * length + n` is element n of row b, and everything below that names a
/// position means this flat index. T = rows * length, I images, P patches of an image, K elements of a patch.
public struct Microbatch: Sendable, Hashable {
  public var rows: Int
  public var length: Int
  /// [T] token id; the padding id where nothing is; -1 where the position holds a patch.
  public var tokens: [Int32]
  /// [T] keys of query t: positions keyStart[t]..<keyEnd[t]. Text sees [document start, itself], a patch
  /// [document start, end of its image), padding itself alone.
  public var keyStart: [Int32]
  public var keyEnd: [Int32]
  /// [M] positions that carry language-model loss, ascending, and the token each must predict.
  public var targetPositions: [Int32]
  public var targetTokens: [Int32]
  /// [I*P] positions of the patches, image by image in raster order.
  public var patchPositions: [Int32]
  /// [I*P, K] clean latents x0 cut into patches; within a patch (channel, row, column).
  public var clean: [Float]
  /// [I*P, K] epsilon, cut the same way.
  public var noise: [Float]
  /// [I] noise level of each image, 0 ... 999.
  public var timesteps: [Int32]

  public var images: Int { timesteps.count }

  public init(
    rows: Int, length: Int, tokens: [Int32], keyStart: [Int32], keyEnd: [Int32], targetPositions: [Int32],
    targetTokens: [Int32], patchPositions: [Int32], clean: [Float], noise: [Float], timesteps: [Int32]
  ) {
    self.rows = rows
    self.length = length
    self.tokens = tokens
    self.keyStart = keyStart
    self.keyEnd = keyEnd
    self.targetPositions = targetPositions
    self.targetTokens = targetTokens
    self.patchPositions = patchPositions
    self.clean = clean
    self.noise = noise
    self.timesteps = timesteps
  }
}

/// The largest counts a microbatch of a run can have: what buffers are sized by.
public struct MicrobatchLimits: Hashable, Sendable, Codable {
  public var rows: Int
  public var length: Int
  /// Most images in one microbatch.
  public var images: Int
  public init(rows: Int, length: Int, images: Int) {
    self.rows = rows
    self.length = length
    self.images = images
  }
}

/// Global counts of one step by which every microbatch divides its losses (recipe: each mean is over the
/// whole global batch).
public struct Denominators: Hashable, Sendable, Codable {
  public var targetTokens: Int
  public var images: Int
  public init(targetTokens: Int, images: Int) {
    self.targetTokens = targetTokens
    self.images = images
  }
}
