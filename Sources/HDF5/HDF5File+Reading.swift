import CHDF5

extension HDF5File {
  /// One entry of a group.
  public struct Child: Sendable, Hashable {
    public enum Kind: Sendable, Hashable {
      case group
      case dataset
      /// Named types, and links that are not followed.
      case other
    }
    public var name: String
    public var kind: Kind
  }

  /// The entries of a group, by name.
  public func children(of group: String = "/") throws(HDF5Error) -> [Child] {
    try HDF5Library.locked { () throws(HDF5Error) -> [Child] in try listing(group) }
  }

  /// Paths of all datasets below a group, sorted; links that are not hard are passed over.
  public func datasets(below group: String = "/") throws(HDF5Error) -> [String] {
    try HDF5Library.locked { () throws(HDF5Error) -> [String] in
      var found: [String] = []
      // Hard links can form cycles: the depth is bounded, and so is the number of visits.
      var pending = [(path: group == "/" ? "" : group, depth: 0)]
      var visits = 0
      while let (path, depth) = pending.popLast() {
        visits += 1
        guard depth <= Self.depthLimit && visits <= Self.groupLimit && found.count <= Self.childLimit else {
          throw .refused(file: file, object: path, reason: "nests or holds too many groups")
        }
        for child in try listing(path.isEmpty ? "/" : path) {
          switch child.kind {
          case .group: pending.append((path + "/" + child.name, depth + 1))
          case .dataset: found.append(path + "/" + child.name)
          case .other: break
          }
        }
      }
      return found.sorted()
    }
  }

  /// Whether a hard-linked object is at `path`.
  public func contains(_ path: String) throws(HDF5Error) -> Bool {
    try HDF5Library.locked { () throws(HDF5Error) -> Bool in
      do throws(HDF5Error) {
        _ = try object(path)
        return true
      } catch {
        if case .missing = error { return false }
        throw error
      }
    }
  }

  /// Shape, type and place of a dataset, checked: rank, element count without overflow, storage inside the file.
  public func dataset(_ path: String) throws(HDF5Error) -> HDF5Dataset {
    try HDF5Library.locked { () throws(HDF5Error) -> HDF5Dataset in
      let object = try object(path)
      return try describe(object, path)
    }
  }

  public func floats(_ path: String, elementLimit: Int = defaultElementLimit) throws(HDF5Error) -> [Float] {
    try elements(path, elementLimit: elementLimit)
  }
  public func doubles(_ path: String, elementLimit: Int = defaultElementLimit) throws(HDF5Error) -> [Double] {
    try elements(path, elementLimit: elementLimit)
  }
  public func int32s(_ path: String, elementLimit: Int = defaultElementLimit) throws(HDF5Error) -> [Int32] {
    try elements(path, elementLimit: elementLimit)
  }

  /// All elements of a dataset in row-major order, converted to `Element`.
  public func elements<Element: HDF5Element>(
    _ path: String, as type: Element.Type = Element.self, elementLimit: Int = defaultElementLimit
  ) throws(HDF5Error) -> [Element] {
    try HDF5Library.locked { () throws(HDF5Error) -> [Element] in
      let object = try object(path)
      let dataset = try describe(object, path)
      guard dataset.count <= elementLimit else {
        throw .wrongShape(
          file: file, object: path, shape: dataset.shape, reason: "more than the \(elementLimit) elements allowed")
      }
      guard dataset.type != .other else { throw .wrongType(file: file, object: path, expected: "numbers") }
      guard dataset.count > 0 else { return [] }
      // Elements that are not stored read as fill values, and may be claimed by the billion. Compression makes 1032
      // bytes into one at best, and a file does not hold more than its size.
      var fileBytes: hsize_t = 0
      guard H5Fget_filesize(try openHandle(), &fileBytes) >= 0 else { throw failure("inspect", path) }
      let held = min(dataset.storedBytes, fileBytes) / UInt64(MemoryLayout<Element>.size)
      guard dataset.count <= 1 << 16 || UInt64(dataset.count) / 8 / 1032 <= held else {
        throw .wrongShape(file: file, object: path, shape: dataset.shape, reason: "more than the file can hold")
      }
      var status: Int32 = 0
      let values = [Element](unsafeUninitializedCapacity: dataset.count) { buffer, count in
        status = chdf5_read_all(object.id, Element.hdf5MemoryType, buffer.baseAddress)
        count = status >= 0 ? dataset.count : 0
      }
      guard status >= 0 else { throw failure("read", path) }
      return values
    }
  }

  /// All elements of a dataset, converted to `Element`, into memory of the caller's.
  /// - Precondition: the dataset has exactly `buffer.count` elements, else ``HDF5Error/wrongShape``.
  public func read<Element: HDF5Element>(_ path: String, into buffer: UnsafeMutableBufferPointer<Element>)
    throws(HDF5Error)
  {
    try HDF5Library.locked { () throws(HDF5Error) in
      let object = try object(path)
      let dataset = try describe(object, path)
      guard dataset.count == buffer.count else {
        throw .wrongShape(
          file: file, object: path, shape: dataset.shape, reason: "expected \(buffer.count) elements")
      }
      guard dataset.type != .other else { throw .wrongType(file: file, object: path, expected: "numbers") }
      guard dataset.count > 0 else { return }
      guard chdf5_read_all(object.id, Element.hdf5MemoryType, buffer.baseAddress) >= 0 else {
        throw failure("read", path)
      }
    }
  }

  private func listing(_ group: String) throws(HDF5Error) -> [Child] {
    let parent = try object(group)
    guard Int(chdf5_object_kind(parent.id)) == CHDF5_GROUP else {
      throw .wrongKind(file: file, object: group, expected: "group")
    }
    let count = chdf5_child_count(parent.id)
    guard count >= 0 else { throw failure("list", group) }
    guard count <= Self.childLimit else {
      throw .refused(file: file, object: group, reason: "holds \(count) entries")
    }
    var children: [Child] = []
    for index in 0..<UInt64(count) {
      var name = ""
      withUnsafeTemporaryAllocation(of: CChar.self, capacity: 1024) { buffer in
        let length = chdf5_child_name(parent.id, index, buffer.baseAddress, buffer.count)
        if length > 0 && length < buffer.count { name = String(cString: buffer.baseAddress!) }
      }
      guard !name.isEmpty else { throw failure("list", group) }
      let link = Int(chdf5_link_kind(parent.id, name))
      guard link >= 0 else { throw failure("look up", group + "/" + name) }
      guard link == CHDF5_HARD else {
        children.append(Child(name: name, kind: .other))
        continue
      }
      guard let object = HDF5Handle(chdf5_open_object(parent.id, name)) else {
        throw failure("open", group + "/" + name)
      }
      switch Int(chdf5_object_kind(object.id)) {
      case CHDF5_GROUP: children.append(Child(name: name, kind: .group))
      case CHDF5_DATASET: children.append(Child(name: name, kind: .dataset))
      default: children.append(Child(name: name, kind: .other))
      }
    }
    return children
  }

  func describe(_ object: borrowing HDF5Handle, _ path: String) throws(HDF5Error) -> HDF5Dataset {
    guard Int(chdf5_object_kind(object.id)) == CHDF5_DATASET else {
      throw .wrongKind(file: file, object: path, expected: "dataset")
    }
    let external = chdf5_external_count(object.id)
    guard external >= 0 else { throw failure("inspect", path) }
    guard external == 0 else { throw .refused(file: file, object: path, reason: "keeps its bytes in another file") }
    let layout: HDF5Layout
    switch Int(chdf5_layout(object.id)) {
    case CHDF5_CONTIGUOUS: layout = .contiguous
    case CHDF5_COMPACT: layout = .compact
    case CHDF5_CHUNKED: layout = .chunked
    case CHDF5_VIRTUAL:
      throw .refused(file: file, object: path, reason: "is a view of other datasets")
    default: throw failure("inspect", path)
    }
    let shape = try shape(object, path)
    let type = HDF5ElementType(code: chdf5_element_type(object.id))
    let stored = H5Dget_storage_size(object.id)
    let offset = chdf5_file_offset(object.id)
    let description = HDF5Dataset(
      path: path, shape: shape, type: type, layout: layout,
      fileOffset: layout == .contiguous && offset != UInt64.max ? offset : nil, storedBytes: stored)
    if layout == .contiguous, stored > 0, let size = type.sizeBytes {
      let (bytes, overflow) = description.count.multipliedReportingOverflow(by: size)
      guard !overflow, stored == UInt64(bytes) else {
        throw .wrongShape(file: file, object: path, shape: shape, reason: "but \(stored) bytes are stored")
      }
    }
    return description
  }

  private func shape(_ object: borrowing HDF5Handle, _ path: String) throws(HDF5Error) -> [Int] {
    guard let space = HDF5Handle(H5Dget_space(object.id)) else { throw failure("inspect", path) }
    let rank = H5Sget_simple_extent_ndims(space.id)
    guard rank >= 0 else { throw failure("inspect", path) }
    guard rank <= Self.rankLimit else {
      throw .wrongShape(
        file: file, object: path, shape: [], reason: "\(rank) dimensions, more than \(Self.rankLimit)")
    }
    var extents = [hsize_t](repeating: 0, count: Self.rankLimit)
    guard H5Sget_simple_extent_dims(space.id, &extents, nil) >= 0 else { throw failure("inspect", path) }
    var shape: [Int] = []
    var count = 1
    for extent in extents.prefix(Int(rank)) {
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
    return shape
  }
}
