/// One float32 tensor to be written: its name, its shape and where its bytes are.
///
/// Bytes are little-endian and row-major. They are asked for once, in order, in slices, on the thread that calls
/// ``CheckpointStore/writePart(step:file:tensors:)``.
public struct TensorSource {
  enum Bytes {
    case memory(UnsafeRawBufferPointer)
    case fill((Range<Int>, UnsafeMutableRawBufferPointer) throws -> Void)
    case values([Float])
  }
  /// Absolute path, such as `/parameters/model.norm.weight`.
  public let path: String
  public let shape: [Int]
  let bytes: Bytes

  /// - Parameter bytes: exactly the tensor's bytes; they must stay as they are until writing returns.
  public init(path: String, shape: [Int], bytes: UnsafeRawBufferPointer) {
    self.path = path
    self.shape = shape
    self.bytes = .memory(bytes)
  }

  /// - Parameter fill: copies a range of the tensor's bytes into a buffer of just that size.
  public init(
    path: String, shape: [Int], fill: @escaping (Range<Int>, UnsafeMutableRawBufferPointer) throws -> Void
  ) {
    self.path = path
    self.shape = shape
    self.bytes = .fill(fill)
  }

  public init(path: String, shape: [Int], values: [Float]) {
    self.path = path
    self.shape = shape
    self.bytes = .values(values)
  }

  /// The size that the shape says; nil when it cannot be counted.
  var byteCount: Int? { TensorShape.byteCount(shape) }

  /// The size of memory given, nil when it comes in slices.
  var givenByteCount: Int? {
    switch bytes {
    case .memory(let bytes): bytes.count
    case .values(let values): values.count * TensorShape.elementBytes
    case .fill: nil
    }
  }

  /// Hands the bytes over in order, in slices of at most `buffer.count`.
  func forEachSlice(
    _ buffer: UnsafeMutableRawBufferPointer,
    _ body: (Int, UnsafeRawBufferPointer) throws(CheckpointError) -> Void
  ) throws(CheckpointError) {
    let count = byteCount ?? 0
    var offset = 0
    while offset < count {
      let range = offset..<min(offset + buffer.count, count)
      switch bytes {
      case .memory(let memory):
        try body(offset, UnsafeRawBufferPointer(rebasing: memory[range]))
      case .values(let values):
        let slice = UnsafeMutableRawBufferPointer(rebasing: buffer[..<range.count])
        values.withUnsafeBytes { slice.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range])) }
        try body(offset, UnsafeRawBufferPointer(slice))
      case .fill(let fill):
        let slice = UnsafeMutableRawBufferPointer(rebasing: buffer[..<range.count])
        do { try fill(range, slice) } catch {
          throw CheckpointError.source(path: path, reason: String(describing: error))
        }
        try body(offset, UnsafeRawBufferPointer(slice))
      }
      offset = range.upperBound
    }
  }
}

/// Sizes of shapes, counted without overflow.
enum TensorShape {
  /// Checkpoints hold float32 only.
  static let elementBytes = 4
  /// Dimensions that a tensor may have.
  static let rankLimit = 8

  static func byteCount(_ shape: [Int]) -> Int? {
    guard shape.count <= rankLimit else { return nil }
    var bytes = elementBytes
    for size in shape {
      guard size >= 0 else { return nil }
      let (product, overflow) = bytes.multipliedReportingOverflow(by: size)
      guard !overflow else { return nil }
      bytes = product
    }
    return bytes
  }
}
