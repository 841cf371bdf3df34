import CHDF5

/// One HDF5 file, open for reading or being written; everything in it is named by absolute paths.
///
/// An object stays on the thread that made it (it is not `Sendable`); files in different threads take turns
/// through the library's lock. Reading follows hard links only: soft links, external links, virtual datasets
/// and external storage are refused, as are filters that would load code.
public final class HDF5File {
  public let file: String
  /// Nil once closed.
  var handle: hid_t?

  /// Ranks above this are refused: nothing here has more dimensions.
  public static let rankLimit = 8
  /// Most elements that reading a dataset accepts unless told otherwise.
  public static let defaultElementLimit = 1 << 30
  /// Most children that listing a group accepts.
  public static let childLimit = 1 << 20
  /// Most nested groups that a listing enters.
  public static let depthLimit = 32
  /// Most groups that a listing enters in all: hard links can make few look like many.
  public static let groupLimit = 4096
  /// Longest string attribute that is read, in bytes.
  public static let stringLimitBytes = 1 << 20

  /// Opens a file for reading.
  public init(reading file: String) throws(HDF5Error) {
    self.file = file
    handle = try HDF5Library.locked { () throws(HDF5Error) -> hid_t in
      guard let access = HDF5Handle(chdf5_file_access(0)) else {
        throw HDF5Error.cannotOpen(file: file, reason: HDF5Library.reason())
      }
      let id = chdf5_open_file(file, access.id)
      guard id >= 0 else { throw HDF5Error.cannotOpen(file: file, reason: HDF5Library.reason()) }
      return id
    }
  }

  /// Creates a file, replacing what is there. Nothing is durable before ``close()`` and an fsync.
  public init(creating file: String) throws(HDF5Error) {
    self.file = file
    handle = try HDF5Library.locked { () throws(HDF5Error) -> hid_t in
      guard let access = HDF5Handle(chdf5_file_access(1)) else {
        throw HDF5Error.cannotCreate(file: file, reason: HDF5Library.reason())
      }
      let id = chdf5_create_file(file, access.id)
      guard id >= 0 else { throw HDF5Error.cannotCreate(file: file, reason: HDF5Library.reason()) }
      return id
    }
  }

  deinit {
    guard let handle else { return }
    HDF5Library.locked { _ = H5Fclose(handle) }
  }

  /// Writes out what is pending and closes; a writer must call it, because only it reports a full disk.
  public func close() throws(HDF5Error) {
    guard let handle else { return }
    self.handle = nil
    try HDF5Library.locked { () throws(HDF5Error) in
      guard H5Fclose(handle) >= 0 else { throw failure("close", "the file") }
    }
  }

  func failure(_ operation: String, _ object: String) -> HDF5Error {
    .library(file: file, object: object, operation: operation, reason: HDF5Library.reason())
  }

  func openHandle() throws(HDF5Error) -> hid_t {
    guard let handle else { throw .closed(file: file) }
    return handle
  }

  static func components(_ path: String) -> [String] {
    path.split(separator: "/", omittingEmptySubsequences: true).map(String.init)
  }

  /// Opens the object at `path` link by link, following hard links only. Under the library's lock.
  func object(_ path: String) throws(HDF5Error) -> HDF5Handle {
    guard var current = HDF5Handle(chdf5_open_object(try openHandle(), "/")) else { throw failure("open", "/") }
    var reached = ""
    for name in Self.components(path) {
      reached += "/" + name
      guard Int(chdf5_object_kind(current.id)) == CHDF5_GROUP else {
        throw .missing(file: file, object: path)
      }
      // "." names the group itself and would pass for a link.
      guard name != "." && name != ".." else { throw .missing(file: file, object: path) }
      let kind = Int(chdf5_link_kind(current.id, name))
      guard kind >= 0 else { throw failure("look up", reached) }
      switch Int(kind) {
      case CHDF5_HARD: break
      case CHDF5_ABSENT: throw .missing(file: file, object: path)
      case CHDF5_SOFT: throw .refused(file: file, object: reached, reason: "is a soft link")
      case CHDF5_EXTERNAL:
        throw .refused(file: file, object: reached, reason: "is a link to another file")
      default: throw .refused(file: file, object: reached, reason: "is a link of unknown kind")
      }
      guard let next = HDF5Handle(chdf5_open_object(current.id, name)) else { throw failure("open", reached) }
      current = next
    }
    return current
  }
}
