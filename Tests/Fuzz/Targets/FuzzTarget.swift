import Foundation

/// What a decoder made of an input.
public enum FuzzOutcome {
  case accepted
  /// Refused with an error, which is what a decoder owes to bytes that are wrong.
  case refused(any Error)

  /// A number that two outcomes share when they look alike: inputs with a new one are worth changing further.
  public var signature: UInt64 {
    guard case .refused(let error) = self else { return 1 }
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    var length = 0
    for byte in "\(error)".utf8 where !(48...57).contains(byte) {
      hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3
      length += 1
      if length == 120 { break }
    }
    return hash
  }
}

/// A decoder has broken a promise without crashing: what it accepted does not survive being written and read.
public struct BrokenPromise: Error, CustomStringConvertible {
  public let description: String
  public init(_ description: String) { self.description = description }
}

/// One decoder with what it is fed.
public struct FuzzTarget: Sendable {
  public typealias Run = ([UInt8]) throws -> FuzzOutcome

  public let name: String
  /// The decoder, for people.
  public let what: String
  public let shape: InputShape
  public let dictionary: [String]
  public let sizeLimit: Int
  /// Heap that one input may take in bytes, besides so many times its size.
  public let heapLimitBytes: Int
  public let heapFactor: Int
  /// Its part of the inputs of a whole run.
  public let share: Int
  /// Why it is run only where it is named: what is found is a library's, and cannot be fixed here.
  public let onlyNamed: String?
  /// One in so many outcomes is looked at for news: rarely where decoding is faster than looking.
  public let lookEvery: Int
  /// Sets the decoder up in a directory of its own; the result decodes one input.
  public let prepare: @Sendable (String) throws -> Run
  /// Makes an input from nothing; nil where examples are all there is.
  public let generate: (@Sendable (inout FuzzRandom) -> [UInt8])?
  /// Makes the valid examples that the corpus holds.
  public let examples: @Sendable (String) throws -> [(name: String, bytes: [UInt8])]

  init(
    _ name: String, _ what: String, shape: InputShape, dictionary: [String] = [], sizeLimit: Int = 1 << 16,
    heapLimitBytes: Int = 16 << 20, heapFactor: Int = 256, share: Int, lookEvery: Int = 1,
    onlyNamed: String? = nil, generate: (@Sendable (inout FuzzRandom) -> [UInt8])? = nil,
    examples: @escaping @Sendable (String) throws -> [(name: String, bytes: [UInt8])],
    prepare: @escaping @Sendable (String) throws -> Run
  ) {
    self.name = name
    self.what = what
    self.shape = shape
    self.dictionary = dictionary
    self.sizeLimit = sizeLimit
    self.heapLimitBytes = heapLimitBytes
    self.heapFactor = heapFactor
    self.share = share
    self.lookEvery = lookEvery
    self.onlyNamed = onlyNamed
    self.generate = generate
    self.examples = examples
    self.prepare = prepare
  }

  public static let all: [FuzzTarget] = wire + checkpoints + texts + keys + data + images
  public static func named(_ name: String) -> FuzzTarget? { all.first { $0.name == name } }

  /// Whether a decode throws something that is not a promise broken.
  static func outcome(_ body: () throws -> Void) throws -> FuzzOutcome {
    do {
      try body()
      return .accepted
    } catch let error as BrokenPromise {
      throw error
    } catch {
      return .refused(error)
    }
  }

  static func promise(_ condition: Bool, _ what: @autoclosure () -> String) throws {
    if !condition { throw BrokenPromise(what()) }
  }
}

/// A file that is overwritten with every input.
// Safe because one thread decodes.
final class InputFile {
  let path: String
  private let descriptor: Int32

  init(_ path: String) throws {
    self.path = path
    descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw BrokenPromise("cannot create \(path)") }
  }
  deinit { close(descriptor) }

  func put(_ bytes: [UInt8]) throws {
    guard ftruncate(descriptor, 0) == 0, pwrite(descriptor, bytes, bytes.count, 0) == bytes.count else {
      throw BrokenPromise("cannot write \(path)")
    }
  }
}
