import Foundation

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Small files on which the safety of others rests: who may read and write them is checked on the open file, so
/// that nothing can be put in its place between.
enum PrivateFile {
  /// What a file may allow to whom.
  enum Protection {
    /// Nobody but its owner may even read it, and the owner is this process's user.
    case secret
    /// Nobody but its owner, who is this process's user or root, may write to it.
    case trusted
    /// Anything.
    case open

    var allowedMode: UInt16 {
      switch self {
      case .secret: 0o600
      case .trusted: 0o644
      case .open: 0o777
      }
    }
    var forbiddenBits: UInt16 {
      switch self {
      case .secret: 0o077
      case .trusted: 0o022
      case .open: 0
      }
    }
  }

  /// - Throws: ``KeyFileError``: `missing`, `tooOpen`, `foreignOwner`, `malformed` when it is too long, `inputOutput`.
  static func read(_ path: String, _ protection: Protection, limitBytes: Int) throws(KeyFileError) -> String {
    // A name that leads to a pipe or a device must not make us wait.
    let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      if errno == ENOENT || errno == ENOTDIR { throw .missing(path: path) }
      throw failure("open", path)
    }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw failure("look at", path) }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw .malformed(path: path, line: 1, reason: "it is not a file")
    }
    let mode = UInt16(status.st_mode & 0o7777)
    guard mode & protection.forbiddenBits == 0 else {
      throw .tooOpen(path: path, mode: mode & 0o777, allowed: protection.allowedMode)
    }
    switch protection {
    case .secret where status.st_uid != geteuid(),
      .trusted where status.st_uid != geteuid() && status.st_uid != 0:
      throw .foreignOwner(path: path, owner: status.st_uid)
    case .secret, .trusted, .open: break
    }
    let bytes: Data
    do {
      bytes = try FileHandle(fileDescriptor: descriptor).read(upToCount: limitBytes + 1) ?? Data()
    } catch {
      throw .inputOutput(operation: "read", path: path, code: 0, reason: error.localizedDescription)
    }
    guard bytes.count <= limitBytes else {
      throw .malformed(path: path, line: 1, reason: "it has more than \(limitBytes) bytes")
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw .malformed(path: path, line: 1, reason: "it is not text")
    }
    return text
  }

  /// Makes a file that was not there.
  static func create(_ path: String, _ text: String, mode: mode_t) throws(KeyFileError) {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
    guard descriptor >= 0 else {
      if errno == EEXIST { throw .exists(path: path) }
      throw failure("create", path)
    }
    do throws(KeyFileError) {
      defer { close(descriptor) }
      // Whatever the umask.
      guard fchmod(descriptor, mode) == 0 else { throw failure("protect", path) }
      try write(text, to: descriptor, path)
      guard fsync(descriptor) == 0 else { throw failure("write", path) }
    } catch {
      unlink(path)
      throw error
    }
  }

  /// Puts a new file in the place of one: whoever reads it sees the old or the new one, whole.
  static func replace(_ path: String, _ text: String, mode: mode_t) throws(KeyFileError) {
    let temporary = "\(path).\(getpid()).new"
    unlink(temporary)
    try create(temporary, text, mode: mode)
    guard rename(temporary, path) == 0 else {
      let error = failure("replace", path)
      unlink(temporary)
      throw error
    }
    let folder = open(URL(filePath: path).deletingLastPathComponent().path, O_RDONLY | O_CLOEXEC)
    if folder >= 0 {
      fsync(folder)
      close(folder)
    }
  }

  /// Runs `body` while no other process does for this path.
  static func locked<Value>(
    _ path: String, _ body: () throws(KeyFileError) -> Value
  ) throws(KeyFileError) -> Value {
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw failure("open", path) }
    defer { close(descriptor) }
    while flock(descriptor, LOCK_EX) != 0 {
      guard errno == EINTR else { throw failure("lock", path) }
    }
    return try body()
  }

  private static func write(_ text: String, to descriptor: Int32, _ path: String) throws(KeyFileError) {
    do { try FileHandle(fileDescriptor: descriptor).write(contentsOf: Data(text.utf8)) } catch {
      throw .inputOutput(operation: "write", path: path, code: 0, reason: error.localizedDescription)
    }
  }

  static func failure(_ operation: String, _ path: String) -> KeyFileError {
    let code = errno
    return .inputOutput(operation: operation, path: path, code: code, reason: String(cString: strerror(code)))
  }
}
