import CHDF5

extension HDF5File {
  /// Reserves a contiguous dataset, with the groups above it, and says where its bytes will lie.
  ///
  /// The bytes themselves may be written by ``write(_:to:)``, or, once the file is closed, straight into the
  /// file at the returned offset: that is how large tensors are streamed without holding the library.
  /// - Returns: offset from the start of the file; nil for a dataset without elements.
  @discardableResult
  public func createDataset(_ path: String, shape: [Int], type: HDF5ElementType) throws(HDF5Error) -> UInt64? {
    try HDF5Library.locked { () throws(HDF5Error) -> UInt64? in
      let components = Self.components(path)
      guard let name = components.last, !components.contains("."), !components.contains("..") else {
        throw .missing(file: file, object: path)
      }
      guard let type = type.fileType else {
        throw .wrongType(file: file, object: path, expected: "a type that is written")
      }
      guard shape.count <= Self.rankLimit, shape.allSatisfy({ $0 >= 0 }) else {
        throw .wrongShape(file: file, object: path, shape: shape, reason: "not a shape to write")
      }
      let parent = try group(components.dropLast())
      let extents = shape.map { hsize_t($0) }
      let spaceID = shape.isEmpty ? H5Screate(H5S_SCALAR) : H5Screate_simple(Int32(shape.count), extents, nil)
      guard let space = HDF5Handle(spaceID),
        let dataset = HDF5Handle(chdf5_create_dataset(parent.id, name, type, space.id))
      else { throw failure("create", path) }
      let offset = chdf5_file_offset(dataset.id)
      return offset == UInt64.max ? nil : offset
    }
  }

  /// Writes all elements of a dataset in row-major order.
  public func write<Element: HDF5Element>(_ values: [Element], to path: String) throws(HDF5Error) {
    try HDF5Library.locked { () throws(HDF5Error) in
      let object = try object(path)
      let dataset = try describe(object, path)
      guard dataset.count == values.count else {
        throw .wrongShape(file: file, object: path, shape: dataset.shape, reason: "given \(values.count) elements")
      }
      guard !values.isEmpty else { return }
      let status = values.withUnsafeBytes { chdf5_write_all(object.id, Element.hdf5MemoryType, $0.baseAddress) }
      guard status >= 0 else { throw failure("write", path) }
    }
  }

  /// Creates a dataset and writes its elements.
  public func write<Element: HDF5Element>(_ values: [Element], shape: [Int], to path: String) throws(HDF5Error) {
    try createDataset(path, shape: shape, type: Element.hdf5FileType)
    try write(values, to: path)
  }

  /// Opens a group, making it and those above it where they are missing. Under the library's lock.
  private func group(_ components: ArraySlice<String>) throws(HDF5Error) -> HDF5Handle {
    guard var current = HDF5Handle(chdf5_open_object(try openHandle(), "/")) else { throw failure("open", "/") }
    for name in components {
      let kind = Int(chdf5_link_kind(current.id, name))
      guard kind >= 0 else { throw failure("look up", name) }
      let next =
        kind == CHDF5_ABSENT
        ? chdf5_create_group(current.id, name) : chdf5_open_object(current.id, name)
      guard let group = HDF5Handle(next) else { throw failure("create group", name) }
      current = group
    }
    return current
  }
}
