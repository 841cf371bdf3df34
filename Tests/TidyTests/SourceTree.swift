import Foundation

/// The Swift files of the checkout, by module.
struct SourceTree {
  struct File {
    var module: String
    var path: String
    var lines: [Substring]
  }
  let root: URL
  let files: [File]

  init() throws {
    root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    var files: [File] = []
    let sources = root.appending(path: "Sources")
    for module in try FileManager.default.contentsOfDirectory(atPath: sources.path).sorted() {
      let folder = sources.appending(path: module)
      guard let walk = FileManager.default.enumerator(atPath: folder.path) else { continue }
      for case let name as String in walk where name.hasSuffix(".swift") {
        let path = folder.appending(path: name)
        // The instruction-set builds link to the files of Kernels: read them once.
        if (try? FileManager.default.destinationOfSymbolicLink(atPath: path.path)) != nil { continue }
        let text = try String(contentsOf: path, encoding: .utf8)
        files.append(
          File(
            module: module, path: "\(module)/\(name)",
            lines: text.split(separator: "\n", omittingEmptySubsequences: false)))
      }
    }
    self.files = files
  }

  /// Code lines with strings and comments blanked, numbered from 1.
  static func code(_ file: File) -> [(number: Int, text: String)] {
    file.lines.enumerated().map { index, line in
      var text = String(line)
      if let comment = text.range(of: "//") { text = String(text[..<comment.lowerBound]) }
      text = text.replacing(#/"([^"\\]|\\.)*"/#, with: "\"\"")
      return (index + 1, text)
    }
  }
}
