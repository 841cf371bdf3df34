import ArgumentParser
import Coordinator
import Foundation
import Keys
import Transport

/// `transfusion keys`: who is who, and who may connect to a run.
struct KeysCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "keys", abstract: "Make key pairs, and say whose a run's coordinator admits.",
    discussion: "docs/security.md shows how to set a run up.",
    subcommands: [KeysGenerate.self, KeysAuthorize.self, KeysRevoke.self, KeysList.self])
}

struct KeysGenerate: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "generate", abstract: "Make a key pair: a secret file, and one beside it (.pub) for others.",
    discussion: "Nothing is overwritten.")

  @Option(
    name: .long, help: ArgumentHelp("The key file; by default ~/.config/transfusion/key.", valueName: "file"),
    completion: .file())
  var output: String?

  @Option(name: .long, help: "Whose it is; by default the user and host.")
  var name: String?

  func run() throws {
    let path = output ?? KeyFile.defaultPath
    let owner = "\(NSUserName())@\(ProcessInfo.processInfo.hostName)".filter { !$0.isWhitespace }
    let key = try KeyFile.generate(path, name: name ?? owner)
    print("\(path) (secret) and \(KeyFile.publicPath(path))\npublic key: \(key)")
  }
}

/// Which list of keys a command is about.
struct KeyListArgument: ParsableArguments {
  @Argument(help: "The run directory, or the list that is given to its coordinator with --authorized-keys.")
  var run: String

  var path: String {
    var isDirectory: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: run, isDirectory: &isDirectory)
    return exists && !isDirectory.boolValue ? run : RunDirectory(run).authorizedKeys
  }
}

extension AdmittedKeys.Role: ExpressibleByArgument {}

struct KeysAuthorize: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "authorize", abstract: "Let a key connect to a run; a live coordinator knows within a second.")

  @OptionGroup var list: KeyListArgument
  @Argument(help: "A .pub file, or the public key itself in quotes.", completion: .file())
  var key: String
  @Option(name: .long, help: "What it is called here; by default the name in the .pub file.")
  var name: String?
  @Option(name: .long, help: "worker, or observer: one that may ask for the status and nothing else.")
  var role = AdmittedKeys.Role.worker

  func run() throws {
    let found = try KeyFile.publicKey(key)
    guard let name = name ?? found.name else { throw ValidationError("a key without a name needs --name") }
    try FileManager.default.createDirectory(
      at: URL(filePath: list.path).deletingLastPathComponent(), withIntermediateDirectories: true)
    try AuthorizedKeys.authorize(.init(key: found.key, role: role, name: name), in: list.path)
    print("\(name) may connect as \(role.rawValue): \(found.key)")
  }
}

struct KeysRevoke: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "revoke", abstract: "Let a key connect no more; a live coordinator drops it within a second.")

  @OptionGroup var list: KeyListArgument
  @Argument(help: "Its name on the list, the public key, or a .pub file.")
  var key: String

  func run() throws {
    let text = FileManager.default.fileExists(atPath: key) ? try KeyFile.publicKey(key).key.text : key
    let entry = try AuthorizedKeys.revoke(text, in: list.path)
    print("\(entry.name) may not connect any more: \(entry.key)")
  }
}

struct KeysList: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list", abstract: "Show which keys may connect to a run.")

  @OptionGroup var list: KeyListArgument

  func run() throws {
    let entries = try AuthorizedKeys.read(list.path).entries
    guard !entries.isEmpty else {
      print("No key is authorised in \(list.path): only the coordinator's own is admitted.")
      return
    }
    var table = TextTable(["name", "role", "public key"], right: [])
    for entry in entries { table.add([entry.name, entry.role.rawValue, entry.key.text]) }
    print(table.text)
  }
}
