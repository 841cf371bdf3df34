/// A worker's identity for life: chosen by the coordinator when the worker first joins, never reused.
public struct WorkerID: Hashable, Comparable, Sendable, Codable, CustomStringConvertible {
  public let number: UInt32
  public init(_ number: UInt32) { self.number = number }
  public static func < (a: Self, b: Self) -> Bool { a.number < b.number }
  public var description: String { "worker \(number)" }
}

/// The membership number that every message carries. It rises with each change of membership and each
/// start of the coordinator; anything that carries an older one is refused.
public struct Generation: Hashable, Comparable, Sendable, Codable, CustomStringConvertible {
  public let number: UInt64
  public init(_ number: UInt64) { self.number = number }
  public static func < (a: Self, b: Self) -> Bool { a.number < b.number }
  public var next: Generation { Generation(number + 1) }
  public var description: String { "generation \(number)" }
}

/// One run: a random 128-bit number in hexadecimal, drawn when the run directory is made.
public struct RunID: Hashable, Sendable, Codable, CustomStringConvertible {
  public let text: String
  public init(_ text: String) { self.text = text }
  public var description: String { text }
}

/// One optimizer update. Step 0 is the initial state; step k is the state after k updates.
public typealias Step = UInt64
