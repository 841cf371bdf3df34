import CSystem
import Foundation

/// One open file: every system call checked, errors with the file's name, a full disk told apart.
struct DiskFile: ~Copyable {
  let path: String
  private let descriptor: Int32

  private init(path: String, flags: Int32, mode: mode_t = 0, operation: String) throws(CheckpointError) {
    var descriptor: Int32
    repeat { descriptor = open(path, flags | O_CLOEXEC, mode) } while descriptor < 0 && errno == EINTR
    guard descriptor >= 0 else { throw DiskFile.failure(operation, path, errno) }
    self.path = path
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }

  /// Opens a regular file for reading; a link at the end of the path is not followed, a pipe does not block.
  static func reading(_ path: String) throws(CheckpointError) -> DiskFile {
    let file = try DiskFile(path: path, flags: O_RDONLY | O_NOFOLLOW | O_NONBLOCK, operation: "open")
    guard try file.status().st_mode & S_IFMT == S_IFREG else { throw failure("read", path, ELOOP) }
    return file
  }
  /// Opens an existing file to write into it and read it back.
  static func updating(_ path: String) throws(CheckpointError) -> DiskFile {
    try DiskFile(path: path, flags: O_RDWR | O_NOFOLLOW, operation: "open")
  }
  /// Creates an empty file, replacing what is there.
  static func creating(_ path: String) throws(CheckpointError) -> DiskFile {
    try DiskFile(path: path, flags: O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: 0o644, operation: "create")
  }
  static func directory(_ path: String) throws(CheckpointError) -> DiskFile {
    try DiskFile(path: path, flags: O_RDONLY | O_DIRECTORY, operation: "open")
  }

  static func failure(_ operation: String, _ path: String, _ code: Int32, bytes: UInt64 = 0) -> CheckpointError {
    switch code {
    case ENOSPC, EDQUOT, EFBIG: .diskFull(file: path, neededBytes: bytes)
    default: .inputOutput(operation: operation, file: path, code: code)
    }
  }

  private func status() throws(CheckpointError) -> stat {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw DiskFile.failure("inspect", path, errno) }
    return status
  }

  func sizeBytes() throws(CheckpointError) -> UInt64 { UInt64(max(0, try status().st_size)) }

  /// Reserves space for the first `bytes` bytes, so that a full disk shows before any work is done.
  func reserve(_ bytes: UInt64) throws(CheckpointError) {
    let code = csystem_reserve(descriptor, Int64(bytes))
    guard code == 0 else { throw DiskFile.failure("reserve space for", path, code, bytes: bytes) }
  }

  func write(_ bytes: UnsafeRawBufferPointer, at offset: UInt64) throws(CheckpointError) {
    var done = 0
    while done < bytes.count {
      let part = UnsafeRawBufferPointer(rebasing: bytes[done...])
      let count = pwrite(descriptor, part.baseAddress, part.count, off_t(offset) + off_t(done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        throw DiskFile.failure("write", path, count == 0 ? ENOSPC : errno, bytes: UInt64(bytes.count - done))
      }
      done += count
    }
  }

  func write(_ bytes: [UInt8]) throws(CheckpointError) {
    try bytes.withUnsafeBufferPointer { buffer throws(CheckpointError) in
      try write(UnsafeRawBufferPointer(buffer), at: 0)
    }
  }

  /// The first `count` bytes, fewer when the file is shorter.
  func read(count: Int) throws(CheckpointError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let found = try bytes.withUnsafeMutableBufferPointer { buffer throws(CheckpointError) in
      try read(into: UnsafeMutableRawBufferPointer(buffer), at: 0)
    }
    bytes.removeLast(count - found)
    return bytes
  }

  /// Fills `buffer` from `offset`, less at the end of the file.
  /// - Returns: bytes read.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(CheckpointError) -> Int {
    var done = 0
    while done < buffer.count {
      let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done...])
      let count = pread(descriptor, part.baseAddress, part.count, off_t(offset) + off_t(done))
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw DiskFile.failure("read", path, errno) }
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// Returns when the file, and for a directory its entries, are on the disk.
  func flush() throws(CheckpointError) {
    let code = csystem_flush(descriptor)
    guard code == 0 else { throw DiskFile.failure("flush", path, code) }
  }

  /// Makes the next read come from the disk instead of memory, where the kernel agrees.
  func forgetCached() { csystem_forget_cached(descriptor) }
}

/// Names in directories: every call checked, changes durable when `flush` returns.
enum DiskDirectory {
  static func make(_ path: String) throws(CheckpointError) {
    guard mkdir(path, 0o755) == 0 || errno == EEXIST else { throw DiskFile.failure("create", path, errno) }
  }
  static func flush(_ path: String) throws(CheckpointError) {
    let directory = try DiskFile.directory(path)
    try directory.flush()
  }
  static func rename(_ from: String, to: String) throws(CheckpointError) {
    guard Foundation.rename(from, to) == 0 else { throw DiskFile.failure("rename to \(to)", from, errno) }
  }
  /// Removes a file; one that is gone already is no error.
  static func removeFile(_ path: String) throws(CheckpointError) {
    guard unlink(path) == 0 || errno == ENOENT else { throw DiskFile.failure("remove", path, errno) }
  }
  static func removeEmpty(_ path: String) throws(CheckpointError) {
    guard rmdir(path) == 0 || errno == ENOENT else { throw DiskFile.failure("remove", path, errno) }
  }

  /// Names in a directory, sorted; nil when it does not exist.
  static func names(_ path: String) throws(CheckpointError) -> [String]? {
    guard let directory = opendir(path) else {
      if errno == ENOENT { return nil }
      throw DiskFile.failure("list", path, errno)
    }
    defer { closedir(directory) }
    var names: [String] = []
    while true {
      errno = 0
      guard let entry = readdir(directory) else {
        guard errno == 0 else { throw DiskFile.failure("list", path, errno) }
        break
      }
      let name = withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// What a name stands for, without following a link; nil when there is nothing.
  static func status(_ path: String) throws(CheckpointError) -> (isDirectory: Bool, sizeBytes: UInt64, modified: Int)? {
    var status = stat()
    guard lstat(path, &status) == 0 else {
      if errno == ENOENT || errno == ENOTDIR { return nil }
      throw DiskFile.failure("inspect", path, errno)
    }
    return (
      status.st_mode & S_IFMT == S_IFDIR, UInt64(max(0, status.st_size)), Int(status.st_mtim.tv_sec)
    )
  }

  /// Bytes that may still be written below `path`.
  static func freeBytes(_ path: String) throws(CheckpointError) -> UInt64 {
    var status = statvfs()
    guard statvfs(path, &status) == 0 else { throw DiskFile.failure("inspect", path, errno) }
    return UInt64(status.f_bavail) * UInt64(status.f_frsize)
  }
}
