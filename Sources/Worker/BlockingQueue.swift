import Foundation

/// Hands values from one thread to another in order; bounded, so that a producer cannot run away.
package final class BlockingQueue<Element: Sendable>: Sendable {
  private struct State {
    var elements: [Element] = []
    var isClosed = false
  }
  // Safe because every access is between lock() and unlock() of `condition`.
  nonisolated(unsafe) private var state = State()
  private let condition = NSCondition()
  private let capacity: Int

  package init(capacity: Int = .max) { self.capacity = capacity }

  /// Waits for room; false when the queue was closed meanwhile.
  @discardableResult package func push(_ element: Element) -> Bool {
    condition.lock()
    defer { condition.unlock() }
    while state.elements.count >= capacity && !state.isClosed { condition.wait() }
    guard !state.isClosed else { return false }
    state.elements.append(element)
    condition.broadcast()
    return true
  }

  /// Waits for an element; nil when the queue is closed and empty.
  package func pop() -> Element? {
    condition.lock()
    defer { condition.unlock() }
    while state.elements.isEmpty && !state.isClosed { condition.wait() }
    guard !state.elements.isEmpty else { return nil }
    let element = state.elements.removeFirst()
    condition.broadcast()
    return element
  }

  /// Everything that is there now, without waiting.
  package func drain() -> [Element] {
    condition.lock()
    defer { condition.unlock() }
    let elements = state.elements
    state.elements.removeAll(keepingCapacity: true)
    condition.broadcast()
    return elements
  }

  /// Drops what is queued when `discarding`, refuses more, and wakes everyone.
  package func close(discarding: Bool = false) {
    condition.lock()
    defer { condition.unlock() }
    state.isClosed = true
    if discarding { state.elements.removeAll() }
    condition.broadcast()
  }
}
