import Collectives
import Compute
import Transport

extension DataPlane: Link {}

/// Tensors in memory that a data plane lends: workers on this host read them where they lie.
package final class LentTensors: SharedMemory {
  private let plane: DataPlane
  package init(_ plane: DataPlane) { self.plane = plane }

  package func allocate(byteCount: Int) -> (any SharedBlock)? {
    plane.lendableMemory(byteCount: byteCount).map(Block.init)
  }

  private final class Block: SharedBlock {
    let memory: LendableMemory
    init(_ memory: LendableMemory) { self.memory = memory }
    var address: UnsafeMutableRawPointer { memory.address }
  }
}
