import Compute

/// The little that a tree reduction needs of memory: float32 blocks that can be added.
///
/// The device is one; plain arrays are another, so that the order of sums can be tested by itself.
public protocol ReductionMemory {
  associatedtype Block
  /// A new block of so many elements.
  func makeBlock(elements: Int) throws -> Block
  /// destination[at...] = destination[at...] + source[at...], element by element.
  func add(_ source: Block, at sourceOffset: Int, to destination: Block, at offset: Int, count: Int)
  /// destination[at...] = source[at...] + the float32s in `bytes`; the blocks may be one, at one offset.
  func add(
    _ bytes: UnsafeRawBufferPointer, to source: Block, at sourceOffset: Int, into destination: Block, at offset: Int)
    throws
  func copy(_ source: Block, at sourceOffset: Int, to destination: Block, at offset: Int, count: Int)
  /// Where elements lie, if peers can read them there.
  func sharedBytes(_ block: Block, at offset: Int, count: Int) throws -> UnsafeRawBufferPointer?
  func download(_ block: Block, at offset: Int, into bytes: UnsafeMutableRawBufferPointer) throws
  /// The bytes are copied before this returns.
  func upload(_ bytes: UnsafeRawBufferPointer, to block: Block, at offset: Int)
}

extension ReductionMemory {
  public func sharedBytes(_ block: Block, at offset: Int, count: Int) throws -> UnsafeRawBufferPointer? { nil }
}

/// Blocks that are tensors of a device.
struct DeviceMemory: ReductionMemory {
  let device: any Device

  func makeBlock(elements: Int) throws -> Tensor { try device.allocate(.float32, [elements]) }
  func add(_ source: Tensor, at sourceOffset: Int, to destination: Tensor, at offset: Int, count: Int) {
    device.add(source.slice(at: sourceOffset, shape: [count]), to: destination.slice(at: offset, shape: [count]))
  }
  func add(
    _ bytes: UnsafeRawBufferPointer, to source: Tensor, at sourceOffset: Int, into destination: Tensor, at offset: Int
  ) throws {
    let count = bytes.count / MemoryLayout<Float>.size
    try device.add(
      bytes, to: source.slice(at: sourceOffset, shape: [count]), into: destination.slice(at: offset, shape: [count]))
  }
  func copy(_ source: Tensor, at sourceOffset: Int, to destination: Tensor, at offset: Int, count: Int) {
    // A sum may be wanted where it is.
    if source.storage === destination.storage && source.offset + sourceOffset == destination.offset + offset { return }
    device.copy(source.slice(at: sourceOffset, shape: [count]), to: destination.slice(at: offset, shape: [count]))
  }
  func sharedBytes(_ block: Tensor, at offset: Int, count: Int) throws -> UnsafeRawBufferPointer? {
    try device.sharedBytes(of: block.slice(at: offset, shape: [count]))
  }
  func download(_ block: Tensor, at offset: Int, into bytes: UnsafeMutableRawBufferPointer) throws {
    try device.download(block.slice(at: offset, shape: [bytes.count / MemoryLayout<Float>.size]), into: bytes)
  }
  func upload(_ bytes: UnsafeRawBufferPointer, to block: Tensor, at offset: Int) {
    device.store(bytes, in: block.slice(at: offset, shape: [bytes.count / MemoryLayout<Float>.size]))
  }
}
