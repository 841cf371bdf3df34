import Glibc
import Synchronization

/// How much memory a device has given out, and how much it may.
final class MemoryBudget: Sendable {
  let limitBytes: Int?
  private let used = Atomic<Int>(0)

  init(limitBytes: Int?) { self.limitBytes = limitBytes }

  var usedBytes: Int { used.load(ordering: .relaxed) }

  func take(_ bytes: Int) throws(DeviceError) {
    let total = used.add(bytes, ordering: .relaxed).newValue
    if let limitBytes, total > limitBytes {
      give(back: bytes)
      throw .outOfMemory(requestedBytes: total - limitBytes, limitBytes: limitBytes)
    }
  }
  /// Takes what an operation needs whatever the limit: later allocations see it.
  func takeUnlimited(_ bytes: Int) { used.add(bytes, ordering: .relaxed) }
  func give(back bytes: Int) { used.subtract(bytes, ordering: .relaxed) }
}

/// Zero-filled pages straight from the kernel, returned to it as a whole.
struct Pages {
  let address: UnsafeMutableRawPointer
  let sizeBytes: Int
  private static let pageBytes = 4096
  /// From this size on, huge pages are worth asking for.
  private static let hugeBytes = 2 << 20

  init?(atLeast bytes: Int) {
    sizeBytes = (max(bytes, 1) + Self.pageBytes - 1) / Self.pageBytes * Self.pageBytes
    guard
      let address = mmap(nil, sizeBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
      address != MAP_FAILED
    else { return nil }
    self.address = address
    if sizeBytes >= 2 * Self.hugeBytes { madvise(address, sizeBytes, MADV_HUGEPAGE) }
  }

  func unmap() { munmap(address, sizeBytes) }
}

/// A tensor's memory on the CPU.
final class CPUBuffer: Storage {
  let address: UnsafeMutableRawPointer
  /// What it lies in: memory that others can read, pages of its own, or another buffer.
  private let block: (any SharedBlock)?
  private let pages: Pages?
  private let owner: CPUBuffer?
  private let budget: MemoryBudget
  var isShared: Bool { block != nil || owner?.isShared ?? false }

  /// Part of another buffer, which counts the bytes; ``Tensor/checkOverlay(_:count:at:)`` has looked at the place.
  init(type: ElementType, count: Int, in owner: CPUBuffer, at byteOffset: Int) {
    self.owner = owner
    budget = owner.budget
    block = nil
    pages = nil
    address = owner.address + byteOffset
    super.init(type: type, count: count)
  }

  /// - Parameter shared: where to put it, if there is room.
  init(type: ElementType, count: Int, budget: MemoryBudget, shared: (any SharedMemory)?) throws(DeviceError) {
    let (bytes, overflow) = count.multipliedReportingOverflow(by: type.sizeBytes)
    if overflow { throw .outOfMemory(requestedBytes: .max, limitBytes: budget.limitBytes ?? .max) }
    try budget.take(bytes)
    self.budget = budget
    owner = nil
    block = shared?.allocate(byteCount: bytes)
    if let block {
      pages = nil
      address = block.address
    } else {
      guard let pages = Pages(atLeast: bytes) else {
        budget.give(back: bytes)
        throw .outOfMemory(requestedBytes: bytes, limitBytes: budget.limitBytes ?? budget.usedBytes)
      }
      self.pages = pages
      address = pages.address
    }
    super.init(type: type, count: count)
  }

  deinit {
    pages?.unmap()
    if owner == nil { budget.give(back: count * type.sizeBytes) }
  }
}

/// Memory that one operation uses and the next may use again. It only grows, so a steady step allocates nothing.
final class ScratchMemory {
  private var pages: Pages?
  private let budget: MemoryBudget
  init(budget: MemoryBudget) { self.budget = budget }

  deinit { release() }

  /// At least `bytes` bytes of unspecified content, aligned to a page; invalidates what was reserved before.
  func reserve(_ bytes: Int) -> UnsafeMutableRawPointer {
    if let pages, pages.sizeBytes >= bytes { return pages.address }
    release()
    guard let grown = Pages(atLeast: bytes) else {
      preconditionFailure("the system refused \(bytes) bytes of scratch memory")
    }
    budget.takeUnlimited(grown.sizeBytes)
    pages = grown
    return grown.address
  }

  private func release() {
    if let pages {
      pages.unmap()
      budget.give(back: pages.sizeBytes)
    }
    pages = nil
  }
}

/// Offsets of several blocks in one scratch reservation.
struct ScratchLayout {
  private(set) var totalBytes = 0
  /// An offset for `bytes` bytes, on a cache line of its own and off the alignment of the block before, so that
  /// equal rows of two blocks do not compete for the same cache sets.
  mutating func add(_ bytes: Int) -> Int {
    let offset = totalBytes
    totalBytes += (bytes + 63) / 64 * 64 + 192
    return offset
  }
  mutating func add(floats count: Int) -> Int { add(count * 4) }
}
