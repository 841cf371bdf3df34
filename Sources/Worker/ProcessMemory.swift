import Foundation

/// The process's memory as the kernel counts it.
enum ProcessMemory {
  /// Resident bytes now; 0 where the kernel does not say.
  static var residentBytes: Int {
    guard let text = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8) else { return 0 }
    let fields = text.split(separator: " ")
    guard fields.count > 1, let pages = Int(fields[1]) else { return 0 }
    return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
  }
  /// Pages that the system gave to this process without reading a disk (getrusage: ru_minflt), since it began.
  static var pageFaults: UInt64 {
    var usage = rusage()
    #if canImport(Glibc)
      getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    #else
      getrusage(RUSAGE_SELF, &usage)
    #endif
    return UInt64(max(usage.ru_minflt, 0))
  }
}
