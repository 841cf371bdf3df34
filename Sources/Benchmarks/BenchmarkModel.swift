import TransfusionModel

/// What a benchmark trains: a model, one microbatch's shape, and the element type of its matrix products.
public struct BenchmarkModel: Sendable {
  public var preset: BenchmarkPreset
  public var rows: Int
  /// Elements of a row.
  public var length: Int
  /// Of an image; a square number.
  public var patches: Int
  public var precision: Precision

  public init(preset: BenchmarkPreset, rows: Int, length: Int, patches: Int, precision: Precision) {
    self.preset = preset
    self.rows = rows
    self.length = length
    self.patches = patches
    self.precision = precision
  }

  var configuration: ModelConfiguration { preset.model(patches: patches) }

  /// As a report shows it.
  var description: [(name: String, value: String)] {
    [
      ("preset", preset.rawValue), ("rows", "\(rows)"), ("length", "\(length)"), ("patches", "\(patches)"),
      ("precision", precision.rawValue),
    ]
  }
}
