import Foundation

/// A file mapped read-only into memory, read as little-endian integers with every access checked.
// @unchecked: the mapping is never written and lives exactly as long as the object.
final class MappedFile: @unchecked Sendable {
  let path: String
  let count: Int
  private let base: UnsafeRawPointer?

  /// - Parameter expectedBytes: the size the description records; another size is damage.
  init(path: String, expectedBytes: UInt64) throws(DataError) {
    self.path = path
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .io(operation: "open", path: path, code: errno) }
    defer { close(descriptor) }
    var information = stat()
    guard fstat(descriptor, &information) == 0 else { throw .io(operation: "stat", path: path, code: errno) }
    guard UInt64(information.st_size) == expectedBytes else {
      throw .damaged(path: path, reason: "it has \(information.st_size) bytes, \(expectedBytes) were written")
    }
    count = Int(information.st_size)
    if count == 0 {  // an empty mapping is not allowed
      base = nil
      return
    }
    guard let address = mmap(nil, count, PROT_READ, MAP_SHARED, descriptor, 0), address != MAP_FAILED else {
      throw .io(operation: "map", path: path, code: errno)
    }
    base = UnsafeRawPointer(address)
  }

  deinit {
    if let base { munmap(UnsafeMutableRawPointer(mutating: base), count) }
  }

  /// Bytes `range` of the file; the buffer is valid while the object lives.
  func bytes(_ range: Range<Int>) throws(DataError) -> UnsafeRawBufferPointer {
    guard range.lowerBound >= 0, range.upperBound <= count else {
      throw .damaged(path: path, reason: "bytes \(range) lie outside its \(count)")
    }
    return UnsafeRawBufferPointer(start: base.map { $0 + range.lowerBound }, count: range.count)
  }

  /// Element `index` of the file read as an array of little-endian integers.
  func integer<Integer: FixedWidthInteger>(_ index: Int, as type: Integer.Type = Integer.self) throws(DataError)
    -> Integer
  {
    let width = MemoryLayout<Integer>.size
    guard index >= 0, index < count / width else {
      throw .damaged(path: path, reason: "element \(index) lies outside its \(count / width)")
    }
    return Integer(littleEndian: base!.loadUnaligned(fromByteOffset: index * width, as: Integer.self))
  }
}
