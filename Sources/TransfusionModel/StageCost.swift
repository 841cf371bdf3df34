import Compute

/// What one unit costs per microbatch, for whoever cuts a model into stages.
public struct UnitCost: Hashable, Sendable, Codable {
  /// Position in pipeline order.
  public var unit: Int
  /// Floating-point operations of the forward pass (a multiplication and an addition are two); the backward
  /// pass takes twice as many, and once more with recomputation.
  public var forwardFlops: Double
  public var parameterCount: Int
  /// Bytes that the unit adds to each microbatch in flight.
  public var activationBytes: Int
}

/// Memory of one stage in bytes, exactly as `Stage` allocates it.
public struct StageMemory: Hashable, Sendable, Codable {
  /// Float32 master weights, and lookup tables.
  public var parameterBytes: Int
  /// Compute-type copies of weights; zero in float32.
  public var copyBytes: Int
  /// One float32 gradient buffer; one that passes counts as what it takes beyond the activations.
  public var gradientBytes: Int
  /// Both AdamW moments of all of the stage's parameters, before they are shared among replicas.
  public var momentBytes: Int
  public var workspaceBytes: Int
  /// Of all slots together.
  public var activationBytes: Int

  /// Everything, on a stage without replicas and with one gradient buffer.
  public var totalBytes: Int {
    parameterBytes + copyBytes + gradientBytes + momentBytes + workspaceBytes + activationBytes
  }
}

extension ModelConfiguration {
  /// The cost of every unit, in pipeline order. Half of the positions are taken to be patches, as in the
  /// recipe's mix (less where the limits allow fewer images), and attention to see half of its row.
  public func unitCosts(limits: MicrobatchLimits, precision: Precision, recompute: Recompute) -> [UnitCost] {
    let positions = Double(limits.rows * limits.length)
    let patches = min(Double(limits.images * patchesPerImage), positions / 2)
    let images = patches / Double(patchesPerImage)
    let (d, f, v) = (Double(width), Double(feedForwardWidth), Double(vocabulary))
    let packed = Double((heads + 2 * keyValueHeads) * headSize)
    let layerFlops = 2 * positions * d * (packed + d + 3 * f) + 2 * positions * Double(limits.length) * d
    let codecFlops = 2 * patches * Double(patchElements) * d
    let timeFlops = 2 * images * d * (Double(timeChannels) + d)
    let headFlops = 2 * (positions - patches) * d * v + codecFlops

    return (0..<unitCount).map { unit in
      let flops =
        switch unit {
        // Looking an embedding up, forward and backward, moves one row of memory a position.
        case 0: positions * d + codecFlops + timeFlops
        case layers + 1: headFlops
        default: layerFlops
        }
      let boundary = 2 * limits.rows * limits.length * width * ElementType.float32.sizeBytes
      let bytes = slotBytes(units: unit..<unit + 1, limits: limits, precision: precision, recompute: recompute)
      return UnitCost(
        unit: unit, forwardFlops: flops, parameterCount: parameters(ofUnit: unit).reduce(0) { $0 + $1.count },
        // Every stage has its input and a gradient, however many units it has.
        activationBytes: bytes - boundary)
    }
  }

  /// Bytes of one microbatch in flight on a stage of these units.
  public func slotBytes(units: Range<Int>, limits: MicrobatchLimits, precision: Precision, recompute: Recompute) -> Int
  {
    memory(units: units, limits: limits, precision: precision, recompute: recompute, slots: 1).activationBytes
  }

  /// The memory of a stage of these units, from the code that allocates it.
  /// - Parameter hasPassingGradient: of its gradient buffer (``Stage/passingGradient``).
  public func memory(
    units: Range<Int>, limits: MicrobatchLimits, precision: Precision, recompute: Recompute, slots: Int,
    hasPassingGradient: Bool = false
  ) -> StageMemory {
    let extent = StageExtent(model: self, units: units, limits: limits, precision: precision, recompute: recompute)
    let layout = StageLayout(self, units: units)
    // Without a device an allocator only counts and cannot fail.
    func counted(_ count: (TensorAllocator) throws(DeviceError) -> Int) -> Int {
      do throws(DeviceError) {
        return try count(TensorAllocator(nil))
      } catch {
        preconditionFailure("counting bytes failed: \(error)")
      }
    }
    func bytes(_ build: (TensorAllocator) throws(DeviceError) -> Void) -> Int {
      counted { allocate throws(DeviceError) in
        try build(allocate)
        return allocate.bytes
      }
    }
    func remade() throws(DeviceError) -> LayerActivations? { try Workspace(extent, TensorAllocator(nil)).remade }
    let copies = precision == .float32 ? 0 : layout.copyCount * precision.computeType.sizeBytes
    let fixed = bytes { allocate throws(DeviceError) in _ = try FixedTensors(extent, layout, allocate) }
    let flat = layout.count * ElementType.float32.sizeBytes
    var gradient = flat
    if hasPassingGradient {
      gradient =
        counted { _ throws(DeviceError) in try ActivationArena.measure(extent, layout, remade: remade()).byteCount }
        - bytes { allocate throws(DeviceError) in _ = try Activations(extent, allocate, remade: remade()) }
    }
    return StageMemory(
      parameterBytes: fixed - copies, copyBytes: copies, gradientBytes: gradient, momentBytes: 2 * flat,
      workspaceBytes: bytes { allocate throws(DeviceError) in _ = try Workspace(extent, allocate) },
      activationBytes: slots
        * bytes { allocate throws(DeviceError) in _ = try Slot(extent, allocate, remade: remade()) })
  }
}
