import Foundation
import Keys

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// The files of a run and who may write them.
public struct RunDirectory: Sendable {
  /// Absolute.
  public let path: String

  public init(_ path: String) {
    self.path = URL(filePath: path).standardizedFileURL.path(percentEncoded: false).trimmingSuffix("/")
  }

  public var journal: String { path + "/journal.sqlite" }
  public var configuration: String { path + "/config.yaml" }
  public var checkpoints: String { path + "/checkpoints" }
  public var authorizedKeys: String { path + "/" + AuthorizedKeys.fileName }
  var lock: String { path + "/lock" }
  var coordinator: String { path + "/coordinator.json" }

  /// Whether a run was ever begun here.
  public var hasJournal: Bool { FileManager.default.fileExists(atPath: journal) }

  /// Makes the directory and takes its lock.
  /// - Throws: ``CoordinatorError/runDirectoryInUse(path:holder:)`` while another process holds it.
  func acquire() throws(CoordinatorError) -> RunDirectoryLock {
    do { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) } catch {
      throw .inputOutput(operation: "create the run directory", path: path, reason: error.localizedDescription)
    }
    let descriptor = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else {
      throw .inputOutput(operation: "open", path: lock, reason: String(cString: strerror(errno)))
    }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      let code = errno
      close(descriptor)
      guard code == EWOULDBLOCK else {
        throw .inputOutput(operation: "lock", path: lock, reason: String(cString: strerror(code)))
      }
      let holder = liveCoordinator().map { "process \($0.processID) on \($0.host), \($0.address)" } ?? "starting up"
      throw .runDirectoryInUse(path: path, holder: holder)
    }
    return RunDirectoryLock(descriptor: descriptor)
  }

  /// What a live coordinator says of itself; nil when none has, or it died without taking the file away.
  public func liveCoordinator() -> CoordinatorAddress? {
    guard let bytes = try? Data(contentsOf: URL(filePath: coordinator)), bytes.count < 1 << 16 else { return nil }
    return try? JSONDecoder().decode(CoordinatorAddress.self, from: bytes)
  }

  func announce(_ address: CoordinatorAddress) throws(CoordinatorError) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    do {
      try encoder.encode(address).write(to: URL(filePath: coordinator), options: .atomic)
    } catch {
      throw .inputOutput(operation: "write", path: coordinator, reason: error.localizedDescription)
    }
  }

  func withdraw() { unlink(coordinator) }

  /// Writes the resolved configuration beside the journal.
  func writeConfiguration(_ text: String) throws(CoordinatorError) {
    let bytes = Data(text.utf8)
    let url = URL(filePath: configuration)
    if (try? Data(contentsOf: url)) == bytes { return }
    do { try bytes.write(to: url, options: .atomic) } catch {
      throw .inputOutput(operation: "write", path: configuration, reason: error.localizedDescription)
    }
  }
}

/// The contents of coordinator.json: where the live coordinator of a run directory is.
public struct CoordinatorAddress: Hashable, Sendable, Codable {
  public var address: String
  public var processID: Int32
  public var host: String
  public var run: String
  public var generation: UInt64
  /// The coordinator's CURVE key; nil where traffic is plain.
  public var publicKey: String?
}

/// Holds the run directory's lock until it goes; the kernel releases it when the process dies.
struct RunDirectoryLock: ~Copyable {
  private let descriptor: Int32
  fileprivate init(descriptor: Int32) { self.descriptor = descriptor }
  deinit { close(descriptor) }
}

extension String {
  fileprivate func trimmingSuffix(_ suffix: Character) -> String {
    var text = self
    while text.count > 1, text.last == suffix { text.removeLast() }
    return text
  }
}
