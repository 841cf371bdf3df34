/// What is to happen and when: a binary heap of (time, order of arrival); equal times come in the order in which they
/// were put in.
struct EventQueue<Event> {
  private struct Entry {
    /// Microseconds.
    var time: UInt64
    var sequence: UInt64
    /// Where the event lies: it is large, and stays there while its entry moves through the heap.
    var slot: Int
  }
  private var heap: [Entry] = []
  private var slots: [Event?] = []
  private var free: [Int] = []
  private var nextSequence: UInt64 = 0

  var count: Int { heap.count }

  mutating func push(_ event: Event, at time: UInt64) {
    let slot: Int
    if let reused = free.popLast() {
      slot = reused
      slots[slot] = event
    } else {
      slot = slots.count
      slots.append(event)
    }
    heap.append(Entry(time: time, sequence: nextSequence, slot: slot))
    nextSequence += 1
    var child = heap.count - 1
    let entry = heap[child]
    while child > 0 {
      let parent = (child - 1) / 2
      guard Self.isBefore(entry, heap[parent]) else { break }
      heap[child] = heap[parent]
      child = parent
    }
    heap[child] = entry
  }

  mutating func pop() -> (time: UInt64, event: Event)? {
    guard let first = heap.first, let last = heap.popLast() else { return nil }
    if !heap.isEmpty {
      var parent = 0
      while true {
        var child = 2 * parent + 1
        guard child < heap.count else { break }
        if child + 1 < heap.count, Self.isBefore(heap[child + 1], heap[child]) { child += 1 }
        guard Self.isBefore(heap[child], last) else { break }
        heap[parent] = heap[child]
        parent = child
      }
      heap[parent] = last
    }
    guard let event = slots[first.slot].take() else { preconditionFailure("an entry without its event") }
    free.append(first.slot)
    return (first.time, event)
  }

  @inline(__always) private static func isBefore(_ a: Entry, _ b: Entry) -> Bool {
    a.time != b.time ? a.time < b.time : a.sequence < b.sequence
  }
}
