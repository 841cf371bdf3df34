import Foundation

/// Where the datasets of a file of ours lie, read without the HDF5 library.
///
/// The library follows what a file says wherever it leads: version 1.10.8 crashes, or asks for gigabytes, on files
/// that somebody damaged on purpose (docs/fuzzing.md). A checkpoint is read by people who did not write it, so its
/// structure is read here instead, every access checked. Understood is what the library writes for us (HDF5 File
/// Format Specification, version 3): superblocks of version 2 and 3, object headers of both versions, links in
/// messages or in a fractal heap under a version 2 B-tree, contiguous datasets; the rest is named and refused.
/// Checksums of metadata are not looked at: the manifest of a checkpoint has the SHA-256 of every byte.
///
/// Stays on one thread.
public final class HDF5Map {
  public let file: String
  let descriptor: Int32
  /// Addresses at or above this lie outside the file.
  let endAddress: UInt64
  private let root: UInt64
  /// What was read, by address of the object's header.
  private var objects: [UInt64: Object] = [:]
  private var metadataBytes: UInt64 = 0

  /// Most bytes of metadata that are read: far above what a checkpoint has.
  static let metadataLimit: UInt64 = 1 << 26
  /// Most bytes of paths that a listing makes.
  static let pathLimit = 1 << 24
  static let undefined = UInt64.max

  struct Object {
    var header: Header
    /// Nil for what is no group.
    var links: [String: Link]?
  }
  enum Link {
    case hard(UInt64)
    case soft, external, other
  }

  /// Opens a file and reads its superblock.
  public init(reading file: String) throws(HDF5Error) {
    func refused(_ reason: String) -> HDF5Error { .cannotOpen(file: file, reason: reason) }
    var opened: Int32
    repeat { opened = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK) } while opened < 0 && errno == EINTR
    guard opened >= 0 else { throw refused(String(cString: strerror(errno))) }
    switch Self.superblock(opened) {
    case .failure(let reason):
      close(opened)
      throw refused(reason.text)
    case .success(let (end, root)):
      self.file = file
      descriptor = opened
      endAddress = end
      self.root = root
    }
  }

  deinit { close(descriptor) }

  private struct Reason: Error { var text: String }

  /// ```
  ///  0 signature, version, size of offsets, size of lengths, flags
  /// 12 base address, extension, end of file, root group, checksum
  /// ```
  private static func superblock(_ descriptor: Int32) -> Result<(end: UInt64, root: UInt64), Reason> {
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      return .failure(Reason(text: "it is not a regular file"))
    }
    var bytes = [UInt8](repeating: 0, count: 48)
    guard pread(descriptor, &bytes, bytes.count, 0) == bytes.count,
      bytes.starts(with: [0x89, 0x48, 0x44, 0x46, 0x0D, 0x0A, 0x1A, 0x0A])
    else { return .failure(Reason(text: "it has no HDF5 signature")) }
    guard bytes[8] == 2 || bytes[8] == 3, bytes[9] == 8, bytes[10] == 8 else {
      return .failure(Reason(text: "its superblock is of another kind than this program writes"))
    }
    var block = HDF5Bytes(bytes, from: 12)
    let (base, _, end, root) = (block.integer(8), block.integer(8), block.integer(8), block.integer(8))
    guard base == 0 else { return .failure(Reason(text: "it does not begin with its superblock")) }
    guard end <= UInt64(clamping: status.st_size) else { return .failure(Reason(text: "it is cut off")) }
    return .success((end, root))
  }

  // MARK: Asking

  /// Paths of all datasets, sorted; links that are not hard are passed over.
  public func datasets() throws(HDF5Error) -> [String] {
    var found: [String] = []
    // Hard links can form cycles: the depth is bounded, and so is the number of visits.
    var pending = [(path: "", address: root, depth: 0)]
    var visits = 0
    var pathBytes = 0
    while let (path, address, depth) = pending.popLast() {
      visits += 1
      guard depth <= HDF5File.depthLimit && visits <= HDF5File.groupLimit else {
        throw .refused(file: file, object: path, reason: "nests or holds too many groups")
      }
      for (name, link) in try object(address, path).links ?? [:] {
        guard case .hard(let child) = link else { continue }
        let childPath = path + "/" + name
        pathBytes += childPath.utf8.count
        guard pathBytes <= Self.pathLimit else {
          throw .refused(file: file, object: path, reason: "holds too many names")
        }
        let object = try object(child, childPath)
        if object.links != nil {
          pending.append((childPath, child, depth + 1))
        } else if object.header.isDataset {
          found.append(childPath)
        }
      }
    }
    return found.sorted()
  }

  /// Shape, type and place of a dataset, found link by link and checked: rank, element count without overflow.
  public func dataset(_ path: String) throws(HDF5Error) -> HDF5Dataset {
    var current = root
    var reached = ""
    for name in HDF5File.components(path) {
      guard let links = try object(current, reached).links, let link = links[name] else {
        throw .missing(file: file, object: path)
      }
      reached += "/" + name
      switch link {
      case .hard(let address): current = address
      case .soft: throw .refused(file: file, object: reached, reason: "is a soft link")
      case .external: throw .refused(file: file, object: reached, reason: "is a link to another file")
      case .other: throw .refused(file: file, object: reached, reason: "is a link of unknown kind")
      }
    }
    return try describe(try object(current, reached).header, path)
  }

  private func describe(_ header: Header, _ path: String) throws(HDF5Error) -> HDF5Dataset {
    guard header.isDataset, let type = header.type, let layout = header.layout, let extents = header.extents else {
      throw .wrongKind(file: file, object: path, expected: "dataset")
    }
    guard !header.isExternal else {
      throw .refused(file: file, object: path, reason: "keeps its bytes in another file")
    }
    var shape: [Int] = []
    var count = 1
    for extent in extents {
      guard let size = Int(exactly: extent) else {
        throw .wrongShape(file: file, object: path, shape: shape, reason: "a dimension of \(extent) is too large")
      }
      shape.append(size)
      let (product, overflow) = count.multipliedReportingOverflow(by: size)
      guard !overflow else {
        throw .wrongShape(file: file, object: path, shape: shape, reason: "too many elements to count")
      }
      count = product
    }
    var description = HDF5Dataset(
      path: path, shape: shape, type: type, layout: .chunked, fileOffset: nil, storedBytes: 0)
    switch layout {
    case .chunked: break
    case .view: throw .refused(file: file, object: path, reason: "is a view of other datasets")
    case .compact(let bytes):
      description.layout = .compact
      description.storedBytes = bytes
    case .contiguous(let address, let bytes):
      description.layout = .contiguous
      guard address != Self.undefined else { break }
      description.fileOffset = address
      description.storedBytes = bytes
      guard let size = type.sizeBytes, bytes > 0 else { break }
      let (expected, overflow) = count.multipliedReportingOverflow(by: size)
      guard !overflow, bytes == UInt64(expected) else {
        throw .wrongShape(file: file, object: path, shape: shape, reason: "but \(bytes) bytes are stored")
      }
    }
    return description
  }

  // MARK: Reading

  func malformed(_ object: String, _ reason: String) -> HDF5Error {
    .library(file: file, object: object.isEmpty ? "/" : object, operation: "read", reason: reason)
  }

  private func object(_ address: UInt64, _ path: String) throws(HDF5Error) -> Object {
    if let known = objects[address] { return known }
    let header = try header(at: address, path)
    let object = Object(header: header, links: header.isGroup && !header.isDataset ? try links(of: header, path) : nil)
    objects[address] = object
    return object
  }

  /// Bytes of metadata: inside the file, and not too many in all.
  func bytes(at address: UInt64, count: UInt64, _ object: String) throws(HDF5Error) -> HDF5Bytes {
    guard address <= endAddress, count <= endAddress - address else {
      throw malformed(object, "it points outside the file")
    }
    metadataBytes += count
    guard metadataBytes <= Self.metadataLimit else {
      throw malformed(object, "the file has more than \(Self.metadataLimit) bytes of metadata")
    }
    var bytes = [UInt8](repeating: 0, count: Int(count))
    var done = 0
    while done < bytes.count {
      let found = bytes.withUnsafeMutableBytes {
        pread(descriptor, $0.baseAddress! + done, $0.count - done, off_t(address) + off_t(done))
      }
      if found < 0 && errno == EINTR { continue }
      guard found > 0 else {
        throw malformed(object, found == 0 ? "the file is cut off" : String(cString: strerror(errno)))
      }
      done += found
    }
    return HDF5Bytes(bytes, from: 0)
  }
}

/// Little-endian numbers of a piece of metadata, one after another. Beyond its end they are 0 and `isWhole` is false.
struct HDF5Bytes {
  private let bytes: [UInt8]
  private(set) var at: Int
  private let end: Int
  private(set) var isWhole = true

  init(_ bytes: [UInt8], from at: Int) {
    self.bytes = bytes
    self.at = at
    end = bytes.count
  }
  private init(_ bytes: [UInt8], _ range: Range<Int>) {
    self.bytes = bytes
    at = range.lowerBound
    end = range.upperBound
  }

  var left: Int { end - at }

  /// The next number of 0 to 8 bytes.
  mutating func integer(_ width: Int) -> UInt64 {
    guard width <= left else {
      at = end
      isWhole = false
      return 0
    }
    var value: UInt64 = 0
    for i in (0..<width).reversed() { value = value << 8 | UInt64(bytes[at + i]) }
    at += width
    return value
  }
  mutating func byte() -> UInt8 { UInt8(truncatingIfNeeded: integer(1)) }

  /// The next bytes as a piece of their own; an empty one when there are not so many.
  mutating func piece(_ count: UInt64) -> HDF5Bytes {
    guard count <= UInt64(left) else {
      isWhole = false
      defer { at = end }
      return HDF5Bytes(bytes, end..<end)
    }
    defer { at += Int(count) }
    return HDF5Bytes(bytes, at..<at + Int(count))
  }
  mutating func skip(_ count: Int) { _ = piece(UInt64(count)) }
  mutating func starts(_ signature: StaticString) -> Bool {
    var equal = true
    for i in 0..<signature.utf8CodeUnitCount where byte() != signature.utf8Start[i] { equal = false }
    return equal && isWhole
  }
  /// What is left, as text; nil where it is not UTF-8.
  var text: String? { String(validating: bytes[at..<end], as: UTF8.self) }
  var rest: [UInt8] { Array(bytes[at..<end]) }
}
