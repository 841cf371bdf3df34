import Checkpoints
import ClusterModel
import Foundation
import Testing

/// A file that cannot be opened says nothing about its bytes: no checkpoint is given up for it.
@Suite struct UnreadableTests {
  @Test(arguments: ["worker-0002.h5", "manifest.json"]) func noPermissionIsNotDamage(file: String) throws {
    let directory = try TemporaryDirectory()
    let store = CheckpointStore(directory: directory("checkpoints"))
    try Sample.write(store, step: 10)
    try Sample.write(store, step: 20)
    let path = store.directory(of: 20) + "/" + file
    #expect(chmod(path, 0) == 0)
    let user = try #require(FileSystemUser(), "this system cannot give up the superuser's rights for a thread")
    defer { user.restore() }
    let error = #expect(throws: CheckpointError.self) { try store.newestValid(expecting: Sample.expecting) }
    guard case .inputOutput(_, path, EACCES) = error else {
      Issue.record("\(error.map(String.init(describing:)) ?? "nothing") was thrown")
      return
    }
    #expect(throws: CheckpointError.self) { try store.load(step: 20) }
    #expect(try store.newestCommitted() == 20)
  }
}

/// Gives the calling thread the file rights of an ordinary user; does nothing where it has no more already.
private struct FileSystemUser {
  private let change: (@convention(c) (UInt32) -> Int32)?

  init?() {
    guard geteuid() == 0 else {
      change = nil
      return
    }
    guard let symbol = dlsym(dlopen(nil, RTLD_NOW), "setfsuid") else { return nil }
    let change = unsafeBitCast(symbol, to: (@convention(c) (UInt32) -> Int32).self)
    _ = change(65_534)
    self.change = change
  }
  func restore() { _ = change?(geteuid()) }
}
