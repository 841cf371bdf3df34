import Digests
import Testing

@Suite struct SHA256Tests {
  // FIPS 180-4 example values.
  @Test func knownAnswers() {
    #expect(
      SHA256.digest(of: "abc").hexadecimal == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    #expect(SHA256.digest(of: "").hexadecimal == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  }

  @Test func partsHashAsTheWhole() {
    let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    var hash = SHA256()
    hash.update(Array(bytes[..<13]))
    hash.update([])
    hash.update(Array(bytes[13...]))
    let digest = hash.finish()
    #expect(digest == SHA256.digest(of: bytes))
    #expect(SHA256Digest(hexadecimal: digest.hexadecimal) == digest)
  }

  @Test(arguments: ["", "abc", String(repeating: "A", count: 64), String(repeating: "g", count: 64)])
  func textThatIsNoDigestIsRefused(text: String) { #expect(SHA256Digest(hexadecimal: text) == nil) }
}
