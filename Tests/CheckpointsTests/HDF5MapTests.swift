import Foundation
import HDF5
import Testing

/// What is read without the HDF5 library is what the library reads, whatever way it chose to store the links.
@Suite struct HDF5MapTests {
  /// Up to 8 links lie in messages, then in a heap under a B-tree: one node up to 45, then two levels; the heap's blocks
  /// lie in a table, and beyond half a mebibyte of links in tables of tables.
  @Test(arguments: [(1, 1), (8, 1), (9, 1), (45, 1), (46, 1), (300, 40), (1_400, 420)])
  func readsWhatTheLibraryReads(datasets count: Int, nameBytes: Int) throws {
    let directory = try TemporaryDirectory()
    let path = directory("file.h5")
    let writer = try HDF5File(creating: path)
    for index in 0..<count {
      let name = String(repeating: "w", count: nameBytes)
      try writer.createDataset("/parameters/model.layers.\(index).\(name)", shape: [index % 5, 3], type: .float32)
    }
    try writer.createDataset("/a/b/c", shape: [], type: .float64)
    try writer.write([Int32](0..<6), shape: [2, 3], to: "/a/b/d")
    try writer.write([UInt8](0..<6), shape: [6], to: "/e")
    try writer.setAttribute("step", to: Int64(1))
    try writer.close()

    let library = try HDF5File(reading: path)
    let map = try HDF5Map(reading: path)
    let names = try library.datasets()
    #expect(try map.datasets() == names)
    #expect(names.count == count + 3)
    for name in names.prefix(50) + names.suffix(50) { #expect(try map.dataset(name) == library.dataset(name)) }
    for name in ["/nothing", "/parameters/nothing", "/e/f", "/a/./b"] {
      #expect(throws: HDF5Error.missing(file: path, object: name)) { try map.dataset(name) }
    }
    #expect(throws: HDF5Error.wrongKind(file: path, object: "/a/b", expected: "dataset")) { try map.dataset("/a/b") }
  }

  @Test func filesOfOtherWritersAreNamedAndRefused() throws {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appending(path: "Fuzz/Corpus/checkpoint")
    #expect(throws: HDF5Error.self) { try HDF5Map(reading: folder.appending(path: "valid-h5py-earliest").path) }
    #expect(try HDF5Map(reading: folder.appending(path: "valid-part").path).datasets().count == 3)
  }

  /// Cut off anywhere, a file is an error.
  @Test func filesThatAreCutOffAreErrors() throws {
    let directory = try TemporaryDirectory()
    let path = directory("file.h5")
    let writer = try HDF5File(creating: path)
    for index in 0..<60 { try writer.write([Float(index)], shape: [1], to: "/parameters/t\(index)") }
    try writer.close()
    let whole = try Damage.bytes(path)
    for count in stride(from: 0, to: whole.count, by: 97) {
      try Damage.put(Array(whole.prefix(count)), path)
      #expect(throws: HDF5Error.self) { try HDF5Map(reading: path).datasets() }
    }
  }
}
