import CHDF5

extension HDF5File {
  /// A scalar numeric attribute of the object at `path` as a double.
  public func doubleAttribute(_ name: String, of path: String = "/") throws(HDF5Error) -> Double {
    try number(name, path)
  }
  /// A scalar numeric attribute of the object at `path` as an integer.
  public func integerAttribute(_ name: String, of path: String = "/") throws(HDF5Error) -> Int64 {
    try number(name, path)
  }

  /// A scalar string attribute of the object at `path`.
  public func stringAttribute(_ name: String, of path: String = "/") throws(HDF5Error) -> String {
    try HDF5Library.locked { () throws(HDF5Error) -> String in
      let attribute = try attribute(name, path)
      var buffer = [CChar](repeating: 0, count: 4096)
      var length = chdf5_read_string(attribute.id, &buffer, buffer.count)
      if length == -3 {
        buffer = [CChar](repeating: 0, count: Self.stringLimitBytes)
        length = chdf5_read_string(attribute.id, &buffer, buffer.count)
      }
      switch length {
      case 0...: return String(decoding: buffer.prefix(Int(length)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
      case -2: throw .wrongType(file: file, object: "attribute \(name) of \(path)", expected: "a string")
      case -3:
        throw .refused(
          file: file, object: "attribute \(name) of \(path)", reason: "is longer than \(Self.stringLimitBytes) bytes")
      default: throw failure("read attribute \(name) of", path)
      }
    }
  }

  /// Whether the object at `path` has an attribute of that name.
  public func hasAttribute(_ name: String, of path: String = "/") throws(HDF5Error) -> Bool {
    try HDF5Library.locked { () throws(HDF5Error) -> Bool in
      let object = try object(path)
      let exists = chdf5_attribute_exists(object.id, name)
      guard exists >= 0 else { throw failure("look up attribute \(name) of", path) }
      return exists > 0
    }
  }

  public func setAttribute(_ name: String, to value: Double, of path: String = "/") throws(HDF5Error) {
    try write(name, value, path)
  }
  public func setAttribute(_ name: String, to value: Int64, of path: String = "/") throws(HDF5Error) {
    try write(name, value, path)
  }

  /// Adds a string attribute of fixed length in UTF-8.
  public func setAttribute(_ name: String, to value: String, of path: String = "/") throws(HDF5Error) {
    try HDF5Library.locked { () throws(HDF5Error) in
      let bytes = value.utf8.isEmpty ? [0] : [UInt8](value.utf8)
      guard let type = HDF5Handle(chdf5_string_type(bytes.count)) else { throw failure("describe", name) }
      try write(name, path, type.id) { bytes.withUnsafeBytes($0) }
    }
  }

  private func attribute(_ name: String, _ path: String) throws(HDF5Error) -> HDF5Handle {
    let object = try object(path)
    guard chdf5_attribute_exists(object.id, name) > 0 else {
      throw .missing(file: file, object: "attribute \(name) of \(path)")
    }
    guard let attribute = HDF5Handle(chdf5_open_attribute(object.id, name)) else {
      throw failure("open attribute \(name) of", path)
    }
    let count = chdf5_attribute_elements(attribute.id)
    guard count == 1 else {
      throw .wrongShape(
        file: file, object: "attribute \(name) of \(path)", shape: [Int(max(count, 0))], reason: "expected one value")
    }
    return attribute
  }

  private func number<Element: HDF5Element & Numeric>(_ name: String, _ path: String) throws(HDF5Error) -> Element {
    try HDF5Library.locked { () throws(HDF5Error) -> Element in
      let attribute = try attribute(name, path)
      var value: Element = 0
      guard H5Aread(attribute.id, Element.hdf5MemoryType, &value) >= 0 else {
        throw .wrongType(file: file, object: "attribute \(name) of \(path)", expected: "a number")
      }
      return value
    }
  }

  private func write<Element: HDF5Element>(_ name: String, _ value: Element, _ path: String) throws(HDF5Error) {
    try HDF5Library.locked { () throws(HDF5Error) in
      guard let type = Element.hdf5FileType.fileType else {
        throw .wrongType(file: file, object: name, expected: "a type that is written")
      }
      try write(name, path, type) { withUnsafeBytes(of: value, $0) }
    }
  }

  /// Adds a scalar attribute; `bytes` gives its little-endian value. Under the library's lock.
  private func write(
    _ name: String, _ path: String, _ type: hid_t,
    _ bytes: ((UnsafeRawBufferPointer) -> Int32) -> Int32
  ) throws(HDF5Error) {
    let object = try object(path)
    guard let space = HDF5Handle(H5Screate(H5S_SCALAR)),
      let attribute = HDF5Handle(chdf5_create_attribute(object.id, name, type, space.id))
    else { throw failure("create attribute \(name) of", path) }
    guard bytes({ H5Awrite(attribute.id, type, $0.baseAddress) }) >= 0 else {
      throw failure("write attribute \(name) of", path)
    }
  }
}
