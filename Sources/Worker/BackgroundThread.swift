import Compute
import Foundation

/// A thread beside the compute thread, which may have made it: that one's processor is not for others.
enum BackgroundThread {
  static func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
    let thread = Thread {
      // From inside: a name that is set from outside before the start does not reach the system (swift-corelibs-foundation).
      Thread.current.name = name
      ProcessorAffinity.release()
      body()
    }
    thread.start()
  }
}
