import CSystem

/// Wakes one polling thread from any other: an eventfd that the poll waits for beside its sockets.
public final class Waker: Sendable {
  let waitDescriptor: Int32
  private let signalDescriptor: Int32

  /// - Throws: ``TransportError/library(operation:code:message:)`` when the process has no descriptors left.
  public init() throws(TransportError) {
    var wait: Int32 = -1
    var signal: Int32 = -1
    let code = csystem_wakeup_open(&wait, &signal)
    guard code == 0 else {
      throw .library(operation: "eventfd", code: code, message: "raise the limit of open files (ulimit -n)")
    }
    waitDescriptor = wait
    signalDescriptor = signal
  }
  deinit { csystem_wakeup_close(waitDescriptor, signalDescriptor) }

  /// Makes the poll that is running, or the next one, return at once. Any thread; never blocks.
  public func wake() { csystem_wakeup_signal(signalDescriptor) }
  func drain() { csystem_wakeup_drain(waitDescriptor) }
}
