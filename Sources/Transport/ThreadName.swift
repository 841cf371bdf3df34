#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

public enum ThreadName {
  /// The calling thread's name in `top -H` and profilers, at most 15 bytes of it.
  ///
  /// Foundation's `Thread.name` does not reach the system from inside a thread whose maker has not stored its handle yet,
  /// nor from outside before it runs.
  public static func set(_ name: String) {
    let file = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { return }
    let bytes = Array(name.utf8.prefix(15))
    _ = write(file, bytes, bytes.count)
    close(file)
  }
}
