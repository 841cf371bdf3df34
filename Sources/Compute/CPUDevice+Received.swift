import CProcessor
import Glibc

extension CPUDevice {
  /// From this size on what a peer sent goes past the caches: it is longer there than they remember.
  private static let streamingBytes = 256 << 10

  /// Sums with what a peer sent, read where it lies.
  public func add(_ bytes: UnsafeRawBufferPointer, to source: Tensor, into destination: Tensor) throws(DeviceError) {
    precondition(
      bytes.count == source.count * 4 && source.count == destination.count,
      "add of \(bytes.count) bytes to \(source.shape) into \(destination.shape)")
    guard let received = bytes.baseAddress?.assumingMemoryBound(to: Float.self) else { return }
    let (from, to) = (floats(at: source), floats(at: destination))
    let streams = bytes.count >= Self.streamingBytes
    forEachBlock(of: source.count, size: 32_768) { range in
      if streams && from != to {
        processor_add_streaming(
          to + range.lowerBound, from + range.lowerBound, received + range.lowerBound, range.count)
        return
      }
      if from != to { memcpy(to + range.lowerBound, from + range.lowerBound, range.count * 4) }
      kernels.plain.add(received + range.lowerBound, to + range.lowerBound, range.count)
    }
  }

  /// An upload of much that is not read again soon.
  public func store(_ bytes: UnsafeRawBufferPointer, in tensor: Tensor) {
    guard bytes.count >= Self.streamingBytes, let source = bytes.baseAddress else { return upload(bytes, to: tensor) }
    precondition(
      bytes.count == tensor.count * tensor.type.sizeBytes, "store of \(bytes.count) bytes in \(tensor.shape)")
    let target = address(tensor)
    forEachBlock(of: bytes.count, size: 1 << 18) { range in
      processor_copy_streaming(target + range.lowerBound, source + range.lowerBound, range.count)
    }
  }
}
