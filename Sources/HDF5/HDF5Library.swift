import CHDF5
import Synchronization

/// The library's global lock: HDF5 builds differ in thread safety, so one call chain at a time is inside.
package enum HDF5Library {
  private static let lock = Mutex(false)

  /// Runs `body` with the library started, silent, and held by the calling thread alone.
  ///
  /// Not recursive: public functions take it, private ones do not.
  package static func locked<Result: ~Copyable, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure)
    -> Result
  {
    try lock.withLock { started throws(Failure) -> Result in
      if !started {
        // A failure here shows as the failure of the first real call, with its reason.
        started = chdf5_start() >= 0
      }
      chdf5_quiet()
      return try body()
    }
  }

  /// Outermost and innermost reason of the last failure on this thread.
  static func reason() -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 1024) { buffer in
      buffer.initialize(repeating: 0)
      chdf5_message(buffer.baseAddress, buffer.count)
      return String(cString: buffer.baseAddress!)
    }
  }
}

/// An HDF5 identifier that is released when its scope ends. Made and dropped under the library's lock only.
struct HDF5Handle: ~Copyable {
  let id: hid_t
  /// Nil when `id` is the library's sign of failure.
  init?(_ id: hid_t) {
    guard id >= 0 else { return nil }
    self.id = id
  }
  deinit { H5Idec_ref(id) }
}
