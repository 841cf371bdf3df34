import CProcessor
import Glibc

/// Which processors threads run on.
public enum ProcessorAffinity {
  /// The processors that this process may use, by number, ascending: what `taskset`, a control group's cpuset or a
  /// scheduler of a cluster left it. Empty where the system does not say.
  ///
  /// They are the main thread's when this is asked for first, which is before anything is tied.
  public static let ofProcess: [Int] = {
    var numbers = [Int32](repeating: 0, count: 1 << 12)
    let count = processor_allowed(&numbers, Int32(numbers.count))
    return numbers.prefix(Int(max(count, 0))).map(Int.init)
  }()

  /// The calling thread stays on this processor, and so do threads that it makes, until ``release()``.
  ///
  /// - Returns: false where the system refuses.
  @discardableResult
  static func tie(to processor: Int) -> Bool { processor_tie_this_thread([Int32(processor)], 1) == 0 }

  /// The calling thread may run on any processor of the process again: a thread inherits the ties of the one that made
  /// it.
  public static func release() {
    let all = ofProcess.map(Int32.init)
    guard !all.isEmpty else { return }
    _ = processor_tie_this_thread(all, Int32(all.count))
  }
}
