import CHDF5

/// Element types a dataset can have in a file, all little-endian.
public enum HDF5ElementType: String, Sendable, Hashable {
  case float32
  case float64
  case int32
  case int64
  case uint8
  /// Another integer or floating-point type, which reading converts.
  case otherNumber
  /// Strings, compounds and the like, which are not read.
  case other

  /// Bytes of one element, nil where the file decides.
  public var sizeBytes: Int? {
    switch self {
    case .float32, .int32: 4
    case .float64, .int64: 8
    case .uint8: 1
    case .otherNumber, .other: nil
    }
  }

  init(code: Int32) {
    switch Int(code) {
    case CHDF5_FLOAT32: self = .float32
    case CHDF5_FLOAT64: self = .float64
    case CHDF5_INT32: self = .int32
    case CHDF5_INT64: self = .int64
    case CHDF5_UINT8: self = .uint8
    case CHDF5_OTHER_NUMBER: self = .otherNumber
    default: self = .other
    }
  }

  /// The type as it lies in files; nil for types that are never written.
  var fileType: hid_t? {
    switch self {
    case .float32: chdf5_file_float32()
    case .float64: chdf5_file_float64()
    case .int32: chdf5_file_int32()
    case .int64: chdf5_file_int64()
    case .uint8: chdf5_file_uint8()
    case .otherNumber, .other: nil
    }
  }
}

/// How a dataset's bytes lie in its file.
public enum HDF5Layout: Sendable, Hashable {
  case contiguous
  case compact
  case chunked
}

/// What a file says of a dataset before any of its elements is read.
public struct HDF5Dataset: Sendable, Hashable {
  public var path: String
  public var shape: [Int]
  public var type: HDF5ElementType
  public var layout: HDF5Layout
  /// Where the bytes of a contiguous dataset begin, counted from the start of the file; nil when none are stored.
  public var fileOffset: UInt64?
  /// Bytes the file holds of it.
  public var storedBytes: UInt64

  /// Elements in all.
  public var count: Int { shape.reduce(1, *) }
}

/// Swift types that datasets are read as; the library converts.
public protocol HDF5Element: BitwiseCopyable {
  /// The identifier of the type in memory. Called under the library's lock.
  static var hdf5MemoryType: Int64 { get }
  static var hdf5FileType: HDF5ElementType { get }
}
extension Float: HDF5Element {
  public static var hdf5MemoryType: Int64 { chdf5_native_float() }
  public static var hdf5FileType: HDF5ElementType { .float32 }
}
extension Double: HDF5Element {
  public static var hdf5MemoryType: Int64 { chdf5_native_double() }
  public static var hdf5FileType: HDF5ElementType { .float64 }
}
extension Int32: HDF5Element {
  public static var hdf5MemoryType: Int64 { chdf5_native_int32() }
  public static var hdf5FileType: HDF5ElementType { .int32 }
}
extension Int64: HDF5Element {
  public static var hdf5MemoryType: Int64 { chdf5_native_int64() }
  public static var hdf5FileType: HDF5ElementType { .int64 }
}
extension UInt8: HDF5Element {
  public static var hdf5MemoryType: Int64 { chdf5_native_uint8() }
  public static var hdf5FileType: HDF5ElementType { .uint8 }
}
