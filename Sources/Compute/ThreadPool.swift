import COneDNN
import CProcessor
import Glibc
import Synchronization

/// Threads that share out the tiles of one operation at a time; the calling thread is one of them.
///
/// Which thread takes which tile is a matter of timing, so tiles must not depend on each other and no sum may
/// cross them. Between operations the helpers spin for some microseconds, then sleep.
final class ThreadPool {
  /// The calling thread included.
  let threads: Int
  private let shared: PoolState
  private var helpers: [pthread_t] = []

  /// Thread i stays on `processors[i]`; the caller, which is thread 0, is left where it is.
  init(threads: Int, processors: [Int]?) {
    precondition(threads >= 1, "a pool has at least the calling thread")
    self.threads = threads
    precondition(processors.map { $0.count >= threads } ?? true, "a processor for each thread")
    shared = PoolState(helpers: threads - 1)
    for slot in 1..<max(threads, 1) {
      let start = HelperStart(state: shared, slot: slot, processor: processors?[slot])
      var thread = pthread_t()
      let code = pthread_create(
        &thread, nil,
        { argument in
          guard let argument else { return nil }
          let start = Unmanaged<HelperStart>.fromOpaque(argument).takeRetainedValue()
          processor_name_this_thread("compute")
          if let processor = start.processor {
            ProcessorAffinity.tie(to: processor)
          } else {
            ProcessorAffinity.release()
          }
          _ = onednn_use_one_thread()
          start.state.help(slot: start.slot)
          return nil
        }, Unmanaged.passRetained(start).toOpaque())
      precondition(code == 0, "the system refused thread \(slot) of \(threads) with code \(code)")
      helpers.append(thread)
    }
  }

  deinit {
    shared.stop()
    for helper in helpers { pthread_join(helper, nil) }
  }

  /// Calls `body(index, slot)` for every index in 0..<count, each once; `slot` in 0..<threads is the calling
  /// thread's own, for its scratch memory. Returns when all are done.
  func parallelFor(_ count: Int, _ body: (_ index: Int, _ slot: Int) -> Void) {
    _ = onednn_use_one_thread()
    if threads == 1 || count <= 1 {
      for index in 0..<max(count, 0) { body(index, 0) }
      return
    }
    withoutActuallyEscaping(body) { shared.run(count, $0) }
  }
}

private final class HelperStart {
  let state: PoolState
  let slot: Int
  let processor: Int?
  init(state: PoolState, slot: Int, processor: Int?) {
    self.state = state
    self.slot = slot
    self.processor = processor
  }
}

// Sendable: `body` and `count` are written only while no helper runs (`active` is 0) and published by `generation`.
private final class PoolState: @unchecked Sendable {
  private let helpers: Int
  private var body: ((Int, Int) -> Void)?
  private var count = 0
  private let next = Atomic<Int>(0)
  private let active = Atomic<Int>(0)
  private let generation = Atomic<Int>(0)
  private let stopping = Atomic<Bool>(false)
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let workArrived = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private let workDone = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  /// Some tens of microseconds: longer than the gap between two operations, shorter than a time slice.
  private static let spins = 1_000

  init(helpers: Int) {
    self.helpers = helpers
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(workArrived, nil)
    pthread_cond_init(workDone, nil)
  }

  deinit {
    pthread_mutex_destroy(mutex)
    pthread_cond_destroy(workArrived)
    pthread_cond_destroy(workDone)
    mutex.deallocate()
    workArrived.deallocate()
    workDone.deallocate()
  }

  func run(_ count: Int, _ body: @escaping (Int, Int) -> Void) {
    self.body = body
    self.count = count
    next.store(0, ordering: .relaxed)
    active.store(helpers, ordering: .relaxed)
    announce()
    takeTiles(slot: 0, body)
    spin { active.load(ordering: .acquiring) == 0 }
    if active.load(ordering: .acquiring) != 0 {
      pthread_mutex_lock(mutex)
      while active.load(ordering: .acquiring) != 0 { pthread_cond_wait(workDone, mutex) }
      pthread_mutex_unlock(mutex)
    }
    self.body = nil
  }

  func help(slot: Int) {
    var seen = 0
    while true {
      spin { generation.load(ordering: .acquiring) != seen }
      if generation.load(ordering: .acquiring) == seen {
        pthread_mutex_lock(mutex)
        while generation.load(ordering: .acquiring) == seen { pthread_cond_wait(workArrived, mutex) }
        pthread_mutex_unlock(mutex)
      }
      seen += 1
      if stopping.load(ordering: .acquiring) { return }
      if let body { takeTiles(slot: slot, body) }
      if active.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 {
        pthread_mutex_lock(mutex)
        pthread_cond_signal(workDone)
        pthread_mutex_unlock(mutex)
      }
    }
  }

  func stop() {
    stopping.store(true, ordering: .releasing)
    announce()
  }

  /// The lock orders the new generation before or after a helper's decision to sleep, never in between.
  private func announce() {
    pthread_mutex_lock(mutex)
    generation.add(1, ordering: .releasing)
    pthread_cond_broadcast(workArrived)
    pthread_mutex_unlock(mutex)
  }

  private func takeTiles(slot: Int, _ body: (Int, Int) -> Void) {
    let count = count
    while true {
      let index = next.add(1, ordering: .relaxed).oldValue
      if index >= count { return }
      body(index, slot)
    }
  }

  private func spin(until condition: () -> Bool) {
    for _ in 0..<Self.spins {
      if condition() { return }
      processor_pause()
    }
  }
}
