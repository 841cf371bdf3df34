import Dispatch

/// A sample as it comes from any kind of source.
struct SourceItem: Sendable {
  var path: String
  /// The archive member or the line, for messages.
  var member: String
  /// The text or the caption.
  var text: String
  /// The undecoded picture of a pair.
  var image: [UInt8]?
}

/// Reads one file of either source.
enum SourceReader: ~Copyable {
  case archive(WebDatasetReader)
  case text(TextReader)

  init(path: String, source: DataSource) throws(DataError) {
    switch source {
    case .images: self = .archive(try WebDatasetReader(path: path))
    case .text: self = .text(try TextReader(path: path))
    }
  }

  var offset: UInt64 {
    switch self {
    case .archive(let reader): reader.offset
    case .text(let reader): reader.offset
    }
  }

  var sizeBytes: UInt64 {
    switch self {
    case .archive(let reader): reader.sizeBytes
    case .text(let reader): reader.sizeBytes
    }
  }

  mutating func next() throws(DataError) -> SourceItem? {
    switch consume self {
    case .archive(var reader):
      do throws(DataError) {
        let pair = try reader.next()
        let path = reader.path
        self = .archive(reader)
        return pair.map { SourceItem(path: path, member: $0.member, text: $0.caption, image: $0.image) }
      } catch {
        self = .archive(reader)
        throw error
      }
    case .text(var reader):
      do throws(DataError) {
        let text = try reader.next()
        let path = reader.path
        self = .text(reader)
        return text.map { SourceItem(path: path, member: "line \($0.line)", text: $0.text, image: nil) }
      } catch {
        self = .text(reader)
        throw error
      }
    }
  }
}

enum Parallel {
  /// Maps on all processors, results in order.
  static func map<Input: Sendable, Output: Sendable>(_ inputs: [Input], _ body: @Sendable (Input) -> Output) -> [Output]
  {
    var outputs = [Output?](repeating: nil, count: inputs.count)
    outputs.withUnsafeMutableBufferPointer { buffer in
      // Safe because each iteration writes its own element and all end before the pointer does.
      nonisolated(unsafe) let buffer = buffer
      DispatchQueue.concurrentPerform(iterations: inputs.count) { buffer[$0] = body(inputs[$0]) }
    }
    return outputs.compactMap { $0 }
  }
}
