import Foundation

/// An image-caption pair as it stands in an archive.
package struct RawPair: Sendable {
  /// The member that held the picture.
  package var member: String
  /// The undecoded PNG or JPEG file.
  package var image: [UInt8]
  package var caption: String
}

/// Reads the pairs of a WebDataset archive: neighbouring members of one key (the name up to the first dot of its
/// last part), a picture (`.png`, `.jpg`, `.jpeg`) and a caption (`.txt`, or `caption` or `text` of a `.json`).
package struct WebDatasetReader: ~Copyable {
  private var archive: TarReader
  /// The first member of the next sample, read already.
  private var ahead: (key: String, suffix: String, member: TarReader.Member)?
  private var started = false

  /// Larger members are refused.
  static let mostMemberBytes: UInt64 = 1 << 28

  package init(path: String) throws(DataError) { archive = try TarReader(path: path) }

  var path: String { archive.path }
  var offset: UInt64 { archive.offset }
  var sizeBytes: UInt64 { archive.sizeBytes }

  /// The next pair, or nil at the end.
  /// - Throws: an error that `concernsOneSample` leaves the reader at the next sample; others end the archive.
  package mutating func next() throws(DataError) -> RawPair? {
    if !started {
      started = true
      try advance()
    }
    guard let key = ahead?.key else { return nil }
    var image: (member: String, bytes: [UInt8])?
    var caption: (rank: Int, text: String)?
    var problem: DataError?
    while let current = ahead, current.key == key {
      let name = current.member.name
      switch current.suffix {
      case "png", "jpg", "jpeg", "txt", "json":
        guard current.member.sizeBytes <= Self.mostMemberBytes else {
          problem = problem ?? invalid(name, "has \(current.member.sizeBytes) bytes, more than \(Self.mostMemberBytes)")
          break
        }
        let bytes = try archive.content()
        switch current.suffix {
        case "txt": note(Self.text(bytes), rank: 0, in: name, of: &caption, &problem)
        case "json": note(Self.jsonCaption(bytes), rank: 1, in: name, of: &caption, &problem)
        default:
          if image != nil { problem = problem ?? invalid(name, "is a second picture under one key") }
          image = (name, bytes)
        }
      default: break  // other members of a sample (classes, embeddings) are none of ours
      }
      try advance()
    }
    if let problem { throw problem }
    guard let image else { throw invalid(key, "has no picture (.png, .jpg or .jpeg)") }
    guard let caption else { throw invalid(key, "has no caption (.txt, or 'caption' or 'text' in .json)") }
    guard !caption.text.isEmpty else { throw invalid(key, "its caption is empty") }
    return RawPair(member: image.member, image: image.bytes, caption: caption.text)
  }

  private func invalid(_ member: String, _ reason: String) -> DataError {
    .invalidSample(path: archive.path, member: member, reason: reason)
  }

  private func note(
    _ found: Result<String?, Reason>, rank: Int, in member: String, of caption: inout (rank: Int, text: String)?,
    _ problem: inout DataError?
  ) {
    switch found {
    case .failure(let reason): problem = problem ?? invalid(member, reason.text)
    case .success(let text?):
      // A .txt beside a .json is the caption; the .json then holds other facts.
      if caption.map({ rank < $0.rank }) ?? true { caption = (rank, text) }
    case .success(nil): break
    }
  }

  private mutating func advance() throws(DataError) {
    ahead = nil
    while let member = try archive.next() {
      let slash = member.name.lastIndex(of: "/").map { member.name.index(after: $0) } ?? member.name.startIndex
      guard let dot = member.name[slash...].firstIndex(of: ".") else { continue }
      let suffix = member.name[member.name.index(after: dot)...].lowercased()
      // "._x" files are what macOS adds to archives.
      guard dot != slash else { continue }
      ahead = (String(member.name[..<dot]), suffix, member)
      return
    }
  }

  struct Reason: Error { var text: String }

  private static func text(_ bytes: [UInt8]) -> Result<String?, Reason> {
    guard let text = String(validating: bytes, as: UTF8.self) else {
      return .failure(Reason(text: "is not UTF-8"))
    }
    return .success(text.trimmingCharacters(in: .whitespacesAndNewlines))
  }

  private static func jsonCaption(_ bytes: [UInt8]) -> Result<String?, Reason> {
    struct Fields: Decodable {
      var caption: String?
      var text: String?
    }
    guard String(validating: bytes, as: UTF8.self) != nil else { return .failure(Reason(text: "is not UTF-8")) }
    guard let fields = try? JSONDecoder().decode(Fields.self, from: Data(bytes)) else {
      return .failure(Reason(text: "is not a JSON object with a string 'caption' or 'text'"))
    }
    return .success((fields.caption ?? fields.text)?.trimmingCharacters(in: .whitespacesAndNewlines))
  }
}
