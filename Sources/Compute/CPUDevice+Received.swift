import Glibc

extension CPUDevice {
  /// Sums with what a peer sent, read where it lies.
  public func add(_ bytes: UnsafeRawBufferPointer, to source: Tensor, into destination: Tensor) throws(DeviceError) {
    precondition(
      bytes.count == source.count * 4 && source.count == destination.count,
      "add of \(bytes.count) bytes to \(source.shape) into \(destination.shape)")
    guard let received = bytes.baseAddress?.assumingMemoryBound(to: Float.self) else { return }
    let (from, to) = (floats(at: source), floats(at: destination))
    let separate = from != to
    forEachBlock(of: source.count, size: 32_768) { range in
      // In parts that stay in the first cache between the copy and the sum.
      for start in stride(from: range.lowerBound, to: range.upperBound, by: 4_096) {
        let count = min(4_096, range.upperBound - start)
        if separate { memcpy(to + start, from + start, count * 4) }
        kernels.plain.add(received + start, to + start, count)
      }
    }
  }
}
