import ArgumentParser
import CSystem

/// For those that are started by a program of ours or by a test: none of them is left behind.
struct ParentOptions: ParsableArguments {
  @Flag(name: .long, help: .hidden)
  var exitWithParent = false

  func watch() { if exitWithParent { ParentProcess.exitWithIt() } }
}

enum ParentProcess {
  /// Ends this process at once when the one that started it ends, however it ends: a worker that was asked politely would
  /// wait for a coordinator to take its state.
  static func exitWithIt() { csystem_terminate_with_parent() }
}
