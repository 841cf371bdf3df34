/// Memory for tensors that other processes of this host read where they lie, such as a data plane's.
public protocol SharedMemory: AnyObject {
  /// Zero-filled memory, aligned to a page; nil when none can be shared.
  func allocate(byteCount: Int) -> (any SharedBlock)?
}

/// A piece of shared memory, given back with its last reference.
public protocol SharedBlock: AnyObject {
  var address: UnsafeMutableRawPointer { get }
}

extension Device {
  /// Without memory to share: as any other tensor.
  public func allocateShared(_ type: ElementType, _ shape: Extents) throws(DeviceError) -> Tensor {
    try allocate(type, shape)
  }
  public func sharedBytes(of tensor: Tensor) throws(DeviceError) -> UnsafeRawBufferPointer? { nil }
}

extension CPUDevice {
  public func allocateShared(_ type: ElementType, _ shape: Extents) throws(DeviceError) -> Tensor {
    try allocate(type, shape, in: sharedMemory)
  }

  public func sharedBytes(of tensor: Tensor) throws(DeviceError) -> UnsafeRawBufferPointer? {
    guard let buffer = tensor.storage as? CPUBuffer, buffer.isShared else { return nil }
    try wait()
    return UnsafeRawBufferPointer(start: address(tensor), count: tensor.count * tensor.type.sizeBytes)
  }
}
