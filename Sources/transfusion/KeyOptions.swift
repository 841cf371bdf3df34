import ArgumentParser
import Coordinator
import Foundation
import Keys
import Logging
import Transport

/// Keys of a process that listens: the coordinator's.
struct ListeningKeyOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Key file: encrypt, and admit authorised keys only. Outside loopback ~/.config/transfusion/key is used by itself.",
      valueName: "file"), completion: .file())
  var key: String?

  @Option(
    name: .long,
    help: ArgumentHelp("Who may connect; by default authorized-keys in the run directory.", valueName: "file"),
    completion: .file())
  var authorizedKeys: String?

  @Option(name: .long, help: ArgumentHelp("Connections that one key may have at a time.", valueName: "n"))
  var connectionsPerKey = 256

  @Flag(name: .long, help: "Listen outside loopback without encryption: anyone who reaches the address may take part.")
  var insecurePlaintext = false

  func validate() throws {
    try KeyChoice.check(key, insecurePlaintext)
    guard (1...65_536).contains(connectionsPerKey) else {
      throw ValidationError("--connections-per-key must be in 1...65536")
    }
  }

  /// The key pair to listen with, and its file; nil for plain text.
  func choose(listen: String, log: Logger) throws -> (pair: KeyPair, file: String)? {
    guard let file = try KeyChoice.file(key, address: listen, insecurePlaintext, log) else { return nil }
    return (try KeyFile.read(file), URL(filePath: file).standardizedFileURL.path)
  }
}

/// Keys of a process that connects to a coordinator.
struct ConnectingKeyOptions: ParsableArguments {
  @Option(
    name: .long,
    help: ArgumentHelp(
      "Key file of this process: encrypt. Outside loopback ~/.config/transfusion/key is used by itself.",
      valueName: "file"), completion: .file())
  var key: String?

  @Option(
    name: .long,
    help: ArgumentHelp(
      "The coordinator's public key, or its .pub file; by default coordinator.pub beside the key file, else the key's own.",
      valueName: "key-or-file"), completion: .file())
  var coordinatorKey: String?

  @Flag(name: .long, help: "Accept unencrypted traffic outside loopback: anyone on the way can read and change it.")
  var insecurePlaintext = false

  func validate() throws { try KeyChoice.check(key ?? coordinatorKey, insecurePlaintext) }

  /// The keys to connect with; nil for plain text.
  /// - Parameter server: the coordinator's key, where it is known already.
  func choose(address: String, server known: PublicKey? = nil, log: Logger) throws -> ClientKeys? {
    let asked = key ?? (coordinatorKey == nil && known == nil ? nil : KeyFile.defaultPath)
    guard let file = try KeyChoice.file(asked, address: address, insecurePlaintext, log) else { return nil }
    let pair = try KeyFile.read(file)
    if let coordinatorKey { return ClientKeys(pair, server: try KeyFile.publicKey(coordinatorKey).key) }
    if let known { return ClientKeys(pair, server: known) }
    // Where all processes have one key, its own .pub file is the coordinator's.
    let beside = KeyFile.coordinatorPath(beside: file)
    let found = [beside, KeyFile.publicPath(file)].first { FileManager.default.fileExists(atPath: $0) }
    guard let found else { throw KeyFileError.noCoordinatorKey(beside: beside) }
    return ClientKeys(pair, server: try KeyFile.publicKey(found).key)
  }
}

enum KeyChoice {
  static func check(_ key: String?, _ insecurePlaintext: Bool) throws {
    if key != nil && insecurePlaintext {
      throw ValidationError("a key and --insecure-plaintext exclude each other: with a key everything is encrypted")
    }
  }

  /// The key file to use: the one that was asked for; the user's own where the address needs encryption; nil where
  /// plain text does no harm, or was accepted in so many words.
  static func file(_ asked: String?, address: String, _ insecurePlaintext: Bool, _ log: Logger) throws -> String? {
    if let asked { return asked }
    if try Endpoint(address).staysOnHost { return nil }
    if insecurePlaintext {
      log.warning(
        "messages over \(address) are neither encrypted nor authenticated: whoever can reach it can read the model and take part in the run"
      )
      return nil
    }
    guard FileManager.default.fileExists(atPath: KeyFile.defaultPath) else {
      throw TransportError.plaintextRefused(address: address)
    }
    return KeyFile.defaultPath
  }
}
