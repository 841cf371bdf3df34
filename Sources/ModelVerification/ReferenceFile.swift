import HDF5
import TransfusionModel

/// What makes a file unusable as a reference.
public enum ReferenceFileError: Error, Equatable, CustomStringConvertible {
  case wrongAttribute(file: String, name: String, value: Double, expected: String)
  case wrongShape(file: String, dataset: String, shape: [Int], expected: [Int])
  case wrongValue(file: String, dataset: String, index: Int, value: Int, allowed: Range<Int>)
  case imageIncomplete(file: String, image: Int, patches: Int, expected: Int)

  public var description: String {
    switch self {
    case .wrongAttribute(let file, let name, let value, let expected):
      "\(file): attribute \(name) is \(value) where \(expected) is expected; make the file with make_reference.py"
    case .wrongShape(let file, let dataset, let shape, let expected):
      "\(file): \(dataset) has shape \(shape) where \(expected) is expected; make the file with make_reference.py"
    case .wrongValue(let file, let dataset, let index, let value, let allowed):
      "\(file): element \(index) of \(dataset) is \(value), outside \(allowed)"
    case .imageIncomplete(let file, let image, let patches, let expected):
      "\(file): image \(image) has \(patches) patches in /input/image where \(expected) are expected"
    }
  }
}

/// A file of `make_reference.py`: a model, one batch, and what PyTorch, transformers and diffusers make of it.
public struct ReferenceFile {
  public let file: String
  public let configuration: ModelConfiguration
  public let microbatch: Microbatch
  /// Limits that the one microbatch fills.
  public let limits: MicrobatchLimits
  public let learningRate: Double
  public let clipNorm: Double
  let hdf5: HDF5File

  /// - Throws: `HDF5Error`, `ReferenceFileError`, `ModelConfigurationError`, `MicrobatchError`.
  public init(_ file: String) throws {
    self.file = file
    hdf5 = try HDF5File(reading: file)
    let hdf5 = hdf5
    func integer(_ name: String, _ allowed: ClosedRange<Int64> = 1...1 << 20) throws -> Int {
      let value = try hdf5.integerAttribute(name)
      guard allowed.contains(value) else {
        throw ReferenceFileError.wrongAttribute(
          file: file, name: name, value: Double(value), expected: "\(allowed.lowerBound) to \(allowed.upperBound)")
      }
      return Int(value)
    }
    var configuration = ModelConfiguration(
      layers: try integer("layers"), width: try integer("hidden"), heads: try integer("heads"),
      keyValueHeads: try integer("kv_heads"), feedForwardWidth: try integer("intermediate"),
      vocabulary: try integer("vocab"), channels: try integer("channels"), latentSize: try integer("latent_size"),
      patch: try integer("patch"))
    configuration.timeChannels = try integer("time_channels")
    configuration.ropeTheta = try hdf5.doubleAttribute("rope_theta")
    configuration.normEpsilon = Float(try hdf5.doubleAttribute("rms_norm_eps"))
    configuration.diffusionWeight = try hdf5.doubleAttribute("diffusion_weight")
    try configuration.validate()
    self.configuration = configuration
    learningRate = try hdf5.doubleAttribute("learning_rate")
    clipNorm = try hdf5.doubleAttribute("clip_norm")

    let reader = BatchReader(
      file: file, hdf5: hdf5, model: configuration, rows: try integer("batch"), length: try integer("length"),
      images: try integer("images", 0...1 << 20))
    microbatch = try reader.microbatch()
    limits = MicrobatchLimits(rows: reader.rows, length: reader.length, images: reader.images)
    try microbatch.validate(for: configuration, limits: limits)
  }

  /// A dataset of known shape.
  func doubles(_ path: String, shape: [Int]) throws -> [Double] {
    try hdf5.checked(path, shape: shape, file: file)
    return try hdf5.doubles(path)
  }
  func attribute(_ name: String) throws -> Double { try hdf5.doubleAttribute(name) }
}

extension HDF5File {
  fileprivate func checked(_ path: String, shape: [Int], file: String) throws {
    let found = try dataset(path).shape
    guard found == shape else {
      throw ReferenceFileError.wrongShape(file: file, dataset: path, shape: found, expected: shape)
    }
  }
}

/// Turns /input of a reference file into a microbatch.
private struct BatchReader {
  let file: String
  let hdf5: HDF5File
  let model: ModelConfiguration
  let rows, length, images: Int

  func microbatch() throws -> Microbatch {
    let patchesPerImage = model.patchesPerImage
    let tokens = try integers("tokens")
    let document = try integers("document")
    let image = try integers("image")
    try check("/input/tokens", tokens, in: 0..<model.vocabulary)
    try check("/input/image", image, in: -1..<images)

    var batch = Microbatch(
      rows: rows, length: length, tokens: tokens, keyStart: [], keyEnd: [], targetPositions: [], targetTokens: [],
      patchPositions: [], clean: try patches("latents"), noise: try patches("noise"), timesteps: [])
    try hdf5.checked("/input/timestep", shape: [images], file: file)
    batch.timesteps = try hdf5.int32s("/input/timestep")

    var positionsOfImage = [[Int32]](repeating: [], count: images)
    for row in 0..<rows {
      let positions = row * length..<(row + 1) * length
      var start = positions.lowerBound
      for t in positions {
        if t == positions.lowerBound || document[t] != document[t - 1] { start = t }
        let padding = document[t] < 0
        let isPatch = image[t] >= 0
        var end = t + 1
        if isPatch {
          batch.tokens[t] = -1
          positionsOfImage[Int(image[t])].append(Int32(t))
          while end < positions.upperBound && image[end] == image[t] { end += 1 }
        }
        batch.keyStart.append(Int32(padding ? t : start))
        batch.keyEnd.append(Int32(end))
        let next = t + 1
        if next < positions.upperBound, !padding, !isPatch, image[next] < 0, document[next] == document[t] {
          batch.targetPositions.append(Int32(t))
          batch.targetTokens.append(tokens[next])
        }
      }
    }
    for (index, positions) in positionsOfImage.enumerated() where positions.count != patchesPerImage {
      throw ReferenceFileError.imageIncomplete(
        file: file, image: index, patches: positions.count, expected: patchesPerImage)
    }
    batch.patchPositions = positionsOfImage.flatMap { $0 }
    return batch
  }

  private func integers(_ name: String) throws -> [Int32] {
    try hdf5.checked("/input/\(name)", shape: [rows, length], file: file)
    return try hdf5.int32s("/input/\(name)")
  }

  private func patches(_ name: String) throws -> [Float] {
    let size = model.latentSize
    try hdf5.checked("/input/\(name)", shape: [images, model.channels, size, size], file: file)
    return model.cutIntoPatches(try hdf5.floats("/input/\(name)"))
  }

  private func check(_ dataset: String, _ values: [Int32], in allowed: Range<Int>) throws {
    for (index, value) in values.enumerated() where !allowed.contains(Int(value)) {
      throw ReferenceFileError.wrongValue(
        file: file, dataset: dataset, index: index, value: Int(value), allowed: allowed)
    }
  }
}
