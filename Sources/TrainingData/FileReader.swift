import Foundation

enum SystemMessage {
  static func text(_ code: Int32) -> String { String(cString: strerror(code)) }
}

/// Sequential reading of one file through a bounded buffer.
struct FileReader: ~Copyable {
  let path: String
  let sizeBytes: UInt64
  /// Bytes handed out or skipped so far.
  private(set) var offset: UInt64 = 0
  private let descriptor: Int32
  private var buffer = [UInt8](repeating: 0, count: 1 << 18)
  private var start = 0
  private var end = 0

  init(path: String) throws(DataError) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .io(operation: "open", path: path, code: errno) }
    var information = stat()
    guard fstat(descriptor, &information) == 0 else {
      let code = errno
      close(descriptor)
      throw .io(operation: "stat", path: path, code: code)
    }
    guard information.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      throw .unusableSource(path: path, reason: "is not a regular file")
    }
    self.path = path
    self.descriptor = descriptor
    sizeBytes = UInt64(information.st_size)
  }

  deinit { close(descriptor) }

  /// Refills an empty buffer; false at the end of the file.
  private mutating func refill() throws(DataError) -> Bool {
    start = 0
    end = 0
    while true {
      let count = read(descriptor, &buffer, buffer.count)
      if count > 0 {
        end = count
        return true
      }
      if count == 0 { return false }
      if errno != EINTR { throw .io(operation: "read", path: path, code: errno) }
    }
  }

  /// The next `count` bytes, fewer only at the end of the file.
  mutating func bytes(_ count: Int) throws(DataError) -> [UInt8] {
    var result: [UInt8] = []
    // What is asked for may be a lie of the file's: no more than is left of it.
    result.reserveCapacity(min(count, 1 << 24, Int(clamping: sizeBytes - min(offset, sizeBytes))))
    while result.count < count {
      if start == end, try !refill() { break }
      let take = min(count - result.count, end - start)
      result.append(contentsOf: buffer[start..<start + take])
      start += take
      offset += UInt64(take)
    }
    return result
  }

  /// Moves over `count` bytes; false when the file ends before that.
  mutating func skip(_ count: UInt64) throws(DataError) -> Bool {
    let buffered = UInt64(end - start)
    if count <= buffered {
      start += Int(count)
      offset += count
      return true
    }
    guard count <= sizeBytes, offset <= sizeBytes - count else { return false }
    offset += count
    start = 0
    end = 0
    guard lseek(descriptor, off_t(offset), SEEK_SET) >= 0 else {
      throw .io(operation: "seek in", path: path, code: errno)
    }
    return true
  }

  enum Line {
    case bytes([UInt8])
    /// The line is longer than the limit; it was read past.
    case tooLong
  }

  /// The next line without its end ("\n" or "\r\n"), or nil at the end of the file.
  mutating func line(mostBytes: Int) throws(DataError) -> Line? {
    var result: [UInt8] = []
    var tooLong = false
    var any = false
    while true {
      if start == end, try !refill() { break }
      any = true
      let newline = buffer[start..<end].firstIndex(of: UInt8(ascii: "\n"))
      let stop = newline ?? end
      if !tooLong, result.count + (stop - start) <= mostBytes {
        result.append(contentsOf: buffer[start..<stop])
      } else {
        tooLong = true
        result = []
      }
      let next = newline.map { $0 + 1 } ?? end
      offset += UInt64(next - start)
      start = next
      if newline != nil { break }
    }
    guard any else { return nil }
    if tooLong { return .tooLong }
    if result.last == UInt8(ascii: "\r") { result.removeLast() }
    return .bytes(result)
  }
}
