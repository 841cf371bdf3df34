import HDF5
import Testing

@Suite struct HDF5FileTests {
  @Test func whatIsWrittenIsRead() throws {
    let directory = try TemporaryDirectory()
    let path = directory("file.h5")
    let values: [Float] = (0..<24).map { Float($0) * 0.5 }
    do {
      let file = try HDF5File(creating: path)
      try file.write(values, shape: [2, 3, 4], to: "/parameters/a.weight")
      try file.write([Int32](0..<5), shape: [5], to: "/counts")
      try file.write([Double.pi], shape: [], to: "/deep/er/scalar")
      try file.setAttribute("step", to: Int64(7))
      try file.setAttribute("rate", to: 0.25, of: "/parameters")
      try file.setAttribute("text", to: "grüße", of: "/parameters/a.weight")
      try file.close()
    }
    let file = try HDF5File(reading: path)
    #expect(try file.floats("/parameters/a.weight") == values)
    #expect(try file.doubles("/parameters/a.weight") == values.map(Double.init))
    #expect(try file.int32s("/counts") == [0, 1, 2, 3, 4])
    #expect(try file.doubles("/deep/er/scalar") == [.pi])
    let dataset = try file.dataset("/parameters/a.weight")
    #expect(dataset.shape == [2, 3, 4] && dataset.type == .float32 && dataset.layout == .contiguous)
    #expect(dataset.fileOffset != nil && dataset.storedBytes == 96)
    #expect(try file.integerAttribute("step") == 7)
    #expect(try file.doubleAttribute("rate", of: "/parameters") == 0.25)
    #expect(try file.stringAttribute("text", of: "/parameters/a.weight") == "grüße")
    #expect(try file.datasets() == ["/counts", "/deep/er/scalar", "/parameters/a.weight"])
    #expect(try file.children().map(\.name) == ["counts", "deep", "parameters"])
    #expect(try file.contains("/counts"))
    #expect(try !file.contains("/absent/too"))
  }

  @Test func errorsNameFileAndObject() throws {
    let directory = try TemporaryDirectory()
    let path = directory("file.h5")
    #expect(throws: HDF5Error.self) { try HDF5File(reading: path) }
    let writer = try HDF5File(creating: path)
    try writer.write([Float](repeating: 1, count: 6), shape: [2, 3], to: "/a")
    try writer.close()
    let file = try HDF5File(reading: path)
    #expect(throws: HDF5Error.missing(file: path, object: "/b")) { try file.floats("/b") }
    #expect(throws: HDF5Error.missing(file: path, object: "/a/b")) { try file.floats("/a/b") }
    #expect(throws: HDF5Error.wrongKind(file: path, object: "/", expected: "dataset")) { try file.floats("/") }
    #expect(throws: HDF5Error.self) { try file.floats("/a", elementLimit: 5) }
    #expect(throws: HDF5Error.missing(file: path, object: "attribute x of /a")) {
      try file.doubleAttribute("x", of: "/a")
    }
    try file.close()
    #expect(throws: HDF5Error.closed(file: path)) { try file.floats("/a") }
  }
}
