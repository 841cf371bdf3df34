import Foundation

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Notices that a list of keys has changed, by its file's times, size and identity.
public struct KeyListWatch {
  /// What a look found.
  public enum Finding: Sendable {
    case unchanged
    case changed(AuthorizedKeys)
    /// It cannot be used as it is; the list that was read last stays in force. Said once for each change.
    case unusable(KeyFileError)
  }
  private struct Stamp: Hashable {
    var file: UInt64 = 0
    var sizeBytes: Int64 = 0
    var seconds: Int = 0
    var nanoseconds: Int = 0
    var changeSeconds: Int = 0
    var changeNanoseconds: Int = 0
    var isThere = false
  }
  public let path: String
  private var stamp: Stamp?
  private var current: AuthorizedKeys?

  public init(_ path: String) { self.path = path }

  /// Looks whether the file is another than at the last look, and reads it then.
  public mutating func look() -> Finding {
    let now = Self.stamp(of: path)
    guard now != stamp else { return .unchanged }
    stamp = now
    do throws(KeyFileError) {
      let list = try AuthorizedKeys.read(path)
      guard list != current else { return .unchanged }
      current = list
      return .changed(list)
    } catch {
      return .unusable(error)
    }
  }

  private static func stamp(of path: String) -> Stamp {
    var status = stat()
    guard stat(path, &status) == 0 else { return Stamp() }
    #if canImport(Glibc)
      let (modified, changed) = (status.st_mtim, status.st_ctim)
    #else
      let (modified, changed) = (status.st_mtimespec, status.st_ctimespec)
    #endif
    return Stamp(
      file: UInt64(status.st_ino), sizeBytes: Int64(status.st_size), seconds: modified.tv_sec,
      nanoseconds: modified.tv_nsec, changeSeconds: changed.tv_sec, changeNanoseconds: changed.tv_nsec, isThere: true)
  }
}
