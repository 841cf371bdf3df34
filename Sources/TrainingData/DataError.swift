/// What can go wrong with training data; every message names the file, the place in it and the remedy.
public enum DataError: Error, Hashable, Sendable {
  /// A system call failed; `code` is its errno.
  case io(operation: String, path: String, code: Int32)
  /// A source file that cannot be used at all.
  case unusableSource(path: String, reason: String)
  /// A tar archive is broken at a byte offset.
  case malformedArchive(path: String, offset: UInt64, reason: String)
  /// One sample of a WebDataset archive cannot be used.
  case invalidSample(path: String, member: String, reason: String)
  /// One line (or the paragraph that starts there) of a text source cannot be used.
  case invalidLine(path: String, line: Int, reason: String)
  /// A picture outside an archive that does not decode.
  case invalidImage(reason: String)
  case tokenizer(name: String, reason: String)
  /// The output is there already: nothing is overwritten.
  case outputExists(path: String)
  /// The directory holds no prepared documents.
  case notPrepared(directory: String)
  /// Prepared files that contradict their own description.
  case damaged(path: String, reason: String)
  /// The documents have no packed index of this shape.
  case noIndex(directory: String, sequenceLength: Int, patch: Int, available: [String])
  /// A setting that cannot be met.
  case impossible(setting: String, reason: String)
  /// A needed Debian package is not installed.
  case missingPackage(name: String, path: String)

  /// Whether the error is about one sample or line, so that a reader can go on with the next.
  public var concernsOneSample: Bool {
    switch self {
    case .invalidSample, .invalidLine: true
    default: false
    }
  }
}

extension DataError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .io(let operation, let path, let code):
      "\(operation) \(path): \(SystemMessage.text(code))"
    case .unusableSource(let path, let reason):
      "\(path): \(reason)"
    case .malformedArchive(let path, let offset, let reason):
      "\(path): not a readable tar archive at byte \(offset): \(reason)"
    case .invalidSample(let path, let member, let reason):
      "\(path): sample '\(member)': \(reason) (--skip-invalid leaves such samples out)"
    case .invalidLine(let path, let line, let reason):
      "\(path):\(line): \(reason) (--skip-invalid leaves such lines out)"
    case .invalidImage(let reason):
      "the picture does not decode: \(reason)"
    case .tokenizer(let name, let reason):
      "tokenizer \(name): \(reason)"
    case .outputExists(let path):
      "\(path) exists already: choose another directory or remove it first"
    case .notPrepared(let directory):
      "\(directory) holds no prepared documents (no meta.json): "
        + "make them with 'transfusion data prepare --out \(directory) ...'"
    case .damaged(let path, let reason):
      "\(path) is damaged: \(reason); prepare the data again"
    case .noIndex(let directory, let sequenceLength, let patch, let available):
      "\(directory) has no index for sequence length \(sequenceLength) and patch \(patch)"
        + (available.isEmpty ? "" : " (it has \(available.joined(separator: ", ")))")
        + ": make it with 'transfusion data index \(directory) --sequence-length \(sequenceLength) --patch \(patch)'"
    case .impossible(let setting, let reason):
      "\(setting): \(reason)"
    case .missingPackage(let name, let path):
      "\(path) is not there: install the Debian package with 'apt-get install \(name)'"
    }
  }
}
