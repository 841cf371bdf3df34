import Compute

/// One piece of memory for a microbatch's activations and a gradient that takes their place.
///
/// The backward pass goes from the last unit to the first. When it writes a unit's gradients, nothing is left to do
/// with the activations of the units behind it. So activations lie in the order of units from the memory's beginning,
/// the gradient, which has that order, too, behind, and both overlap as far as no unit's gradients reach what its own
/// backward pass, or that of a unit before it, still reads. In a stage of many layers they take together little more than
/// the larger of both; a stage of one unit gains nothing.
struct ActivationArena {
  /// The gradient, laid out as the stage's values: whole once the backward pass has ended, gone with the next
  /// microbatch.
  let gradient: Tensor
  /// Puts tensors where activations go.
  let allocator: TensorAllocator

  /// Tensors lie as far apart as if each had pages of its own.
  private static let alignment = 4096

  init(_ extent: StageExtent, _ layout: StageLayout, remade: LayerActivations?, device: any Device, isShared: Bool)
    throws(DeviceError)
  {
    let (start, byteCount) = try Self.measure(extent, layout, remade: remade)
    let count = byteCount / ElementType.float32.sizeBytes
    let memory = isShared ? try device.allocateShared(.float32, [count]) : try device.allocate(.float32, [count])
    gradient = memory.slice(at: start / ElementType.float32.sizeBytes, shape: [layout.count])
    allocator = TensorAllocator(device, in: memory, alignment: Self.alignment)
  }

  /// The gradient's first byte, and the size of all.
  static func measure(_ extent: StageExtent, _ layout: StageLayout, remade: LayerActivations?) throws(DeviceError)
    -> (gradientStart: Int, byteCount: Int)
  {
    let counter = TensorAllocator(nil, alignment: alignment)
    let activations = try Activations(extent, counter, remade: remade)
    let size = ElementType.float32.sizeBytes
    var start = 0
    for (unit, end) in zip(extent.units, activations.ends) {
      let first = layout.parameters[layout.parameters(ofUnit: unit).lowerBound].offset * size
      start = max(start, end - first)
    }
    start = (start + alignment - 1) / alignment * alignment
    return (start, max(counter.bytes, start + layout.count * size))
  }
}
