import Compute
import Foundation
import Transport

/// A thread beside the compute thread, which may have made it: that one's processor is not for others.
enum BackgroundThread {
  static func start(_ name: String, _ body: @escaping @Sendable () -> Void) {
    let thread = Thread {
      ThreadName.set(name)
      ProcessorAffinity.release()
      body()
    }
    thread.start()
  }
}
