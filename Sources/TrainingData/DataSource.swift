/// Where a sequence comes from.
public enum DataSource: String, Hashable, Sendable, Codable, CaseIterable {
  /// Image-caption pairs; captions count on the image side (recipe, Data).
  case images
  case text
}

/// What a part of the data is for.
public enum DataSplit: String, Hashable, Sendable, Codable, CaseIterable {
  case train
  case validation
}

/// The shares of the two sources by sequence elements, as whole numbers (the recipe's 1:1).
///
/// All sequences have one length, so shares of elements are shares of sequences. Positions of the stream go to the
/// sources by a fixed pattern that never strays more than one sequence from the exact share.
public struct SourceMix: Hashable, Sendable, Codable {
  public var images: UInt32
  public var text: UInt32

  public init(images: UInt32 = 1, text: UInt32 = 1) {
    self.images = images
    self.text = text
  }

  /// The source of a position and the position's number within that source.
  func place(_ position: UInt64) -> (source: DataSource, index: UInt64) {
    let total = UInt64(images) + UInt64(text)
    precondition(total > 0, "a mix needs a share of at least one source")
    let (cycles, rest) = position.quotientAndRemainder(dividingBy: total)
    // Image sequences among the first n of a cycle: floor(n * images / total).
    let before = rest * UInt64(images) / total
    let after = (rest + 1) * UInt64(images) / total
    return after > before
      ? (.images, cycles * UInt64(images) + before)
      : (.text, cycles * UInt64(text) + (rest - before))
  }
}
