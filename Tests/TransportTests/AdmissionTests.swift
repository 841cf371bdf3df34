import ClusterModel
import Foundation
import Testing
import Transport
import Wire

private func envelope(_ message: ControlMessage) -> Envelope {
  Envelope(run: RunID("run"), generation: Generation(1), sender: .worker(WorkerID(1)), message: message)
}

/// A coordinator's socket with keys, and who may come.
private final class Gate {
  let pair: KeyPair
  let admitted = AdmittedKeys()
  let notes = Notes()
  let server: ControlServer

  init(_ admissions: [PublicKey: AdmittedKeys.Admission] = [:], rate: ControlRate = ControlRate()) throws {
    pair = try KeyPair.generate()
    admitted.admit(only: admissions)
    let notes = notes
    server = try ControlServer(
      listen: "tcp://127.0.0.1:*", keys: ServerKeys(pair, admitted: admitted) { notes.add($0) }, rate: rate)
  }
  func client(_ pair: KeyPair, server: PublicKey? = nil) throws -> ControlClient {
    try ControlClient(address: self.server.endpoint, keys: ClientKeys(pair, server: server ?? self.pair.publicKey))
  }

  /// Lets both ends work until `condition` holds or so much time has passed.
  @discardableResult func run(
    _ clients: [ControlClient], seconds: Double = 10, until condition: ([Incoming]) -> Bool
  ) throws -> [Incoming] {
    var heard: [Incoming] = []
    let deadline = Date().addingTimeInterval(seconds)
    while Date() < deadline, !condition(heard) {
      for client in clients { _ = try client.poll(timeoutMilliseconds: 5) }
      heard += try server.poll(timeoutMilliseconds: 5)
    }
    return heard
  }
}

/// Safe because the lines are reached under the lock only.
private final class Notes: @unchecked Sendable {
  private let lock = NSLock()
  private var lines: [String] = []
  func add(_ line: String) { lock.withLock { lines.append(line) } }
  var text: String { lock.withLock { lines.joined(separator: "\n") } }
}

extension AdmittedKeys.Admission {
  fileprivate static let worker = Self(role: .worker, connections: 8)
}

@Suite(.timeLimit(.minutes(2)), .serialized) struct AdmissionTests {
  @Test func anAdmittedKeyIsHeardUnderItsName() throws {
    let mine = try KeyPair.generate()
    let gate = try Gate([mine.publicKey: .worker])
    let client = try gate.client(mine)
    let large = String(repeating: "x", count: WireLimits.reasonBytes)
    try client.send(envelope(.leaving(reason: large)))
    let heard = try gate.run([client]) { !$0.isEmpty }
    #expect(heard.first?.peer.key == mine.publicKey)
    let peer = try #require(heard.first?.peer)
    try gate.server.send(envelope(.regroup), to: peer)
    var answers: [Envelope] = []
    for _ in 0..<100 where answers.isEmpty { answers += try client.poll(timeoutMilliseconds: 50) }
    #expect(answers.count == 1)
    #expect(client.refusal == nil && client.failedHandshakes == 0)
  }

  @Test func anUnknownKeyIsRefusedAndTold() throws {
    let gate = try Gate([try KeyPair.generate().publicKey: .worker])
    let stranger = try KeyPair.generate()
    let client = try gate.client(stranger)
    try client.send(envelope(.statusRequest))
    let heard = try gate.run([client]) { _ in client.refusal != nil }
    #expect(heard.isEmpty)
    #expect(client.refusal == .notAuthorised(address: gate.server.endpoint))
    #expect(gate.notes.text.contains(stranger.publicKey.text))
  }

  /// Somebody who listens at the coordinator's address without its key learns nothing.
  @Test func aServerWithAnotherKeyIsNotTalkedTo() throws {
    let mine = try KeyPair.generate()
    let gate = try Gate([mine.publicKey: .worker])
    let client = try gate.client(mine, server: try KeyPair.generate().publicKey)
    try client.send(envelope(.statusRequest))
    let heard = try gate.run([client]) { _ in client.refusal != nil || client.failedHandshakes > 1 }
    #expect(heard.isEmpty)
    #expect(client.refusal != nil || client.failedHandshakes > 1)
  }

  @Test func bothEndsEncryptOrNeither() throws {
    let mine = try KeyPair.generate()
    let gate = try Gate([mine.publicKey: .worker])
    let plain = try ControlClient(address: gate.server.endpoint)
    try plain.send(envelope(.statusRequest))
    let raw = try RawPeer(gate.server.endpoint)
    withExtendedLifetime(raw) {}
    #expect(try gate.run([plain]) { _ in plain.refusal != nil }.isEmpty)
    #expect(plain.refusal == .encryptionDiffers(address: gate.server.endpoint, weEncrypt: false))

    let open = try ControlServer(listen: "tcp://127.0.0.1:*")
    let client = try ControlClient(address: open.endpoint, keys: ClientKeys(mine, server: gate.pair.publicKey))
    try client.send(envelope(.statusRequest))
    for _ in 0..<200 where client.refusal == nil {
      _ = try client.poll(timeoutMilliseconds: 10)
      #expect(try open.poll(timeoutMilliseconds: 5).isEmpty)
    }
    #expect(client.refusal == .encryptionDiffers(address: open.endpoint, weEncrypt: true))
  }

  @Test func aRevokedKeyIsOutAtOnce() throws {
    let (mine, other) = (try KeyPair.generate(), try KeyPair.generate())
    let gate = try Gate([mine.publicKey: .worker, other.publicKey: .worker])
    let clients = try [mine, other].map { try gate.client($0) }
    for client in clients { try client.send(envelope(.statusRequest)) }
    let peer = try #require(
      try gate.run(clients) { $0.count == 2 }.first { $0.peer.key == mine.publicKey }?.peer)

    gate.admitted.admit(only: [other.publicKey: .worker])
    for client in clients { try client.send(envelope(.statusRequest)) }
    let heard = try gate.run(clients) { _ in gate.server.refusedCount > 0 }
    #expect(heard.allSatisfy { $0.peer.key == other.publicKey })
    #expect(gate.server.refusedCount == 1)
    #expect(throws: TransportError.peerUnreachable) { try gate.server.send(envelope(.regroup), to: peer) }
    #expect(clients[0].refusal == nil)
    // Hung up on, it comes again and learns why.
    gate.server.hangUpOnStrangers()
    try gate.run(clients) { _ in clients[0].refusal != nil }
    #expect(clients[0].refusal == .notAuthorised(address: gate.server.endpoint))
    try clients[1].send(envelope(.statusRequest))
    #expect(try gate.run(clients) { !$0.isEmpty }.count == 1)
  }

  @Test func observersAskForTheStatusAndNothingElse() throws {
    let mine = try KeyPair.generate()
    let gate = try Gate([mine.publicKey: .init(role: .observer, connections: 1)])
    let client = try gate.client(mine)
    try client.send(envelope(.leaving(reason: "sabotage")))
    try client.send(envelope(.statusRequest))
    let heard = try gate.run([client]) { !$0.isEmpty }
    #expect(heard.count == 1)
    guard case .envelope(let envelope) = heard.first?.content else {
      Issue.record("\(heard)")
      return
    }
    #expect(envelope.message == .statusRequest)
    #expect(gate.server.refusedCount == 1)
  }

  @Test func whatIsBeyondTheRateIsDroppedAndCounted() throws {
    let (mine, other) = (try KeyPair.generate(), try KeyPair.generate())
    let gate = try Gate(
      [mine.publicKey: .worker, other.publicKey: .worker], rate: ControlRate(tokensPerSecond: 1, burstTokens: 40))
    let clients = try [mine, other].map { try gate.client($0) }
    for step in Step(0)..<300 { try clients[0].send(envelope(.runStep(step: step))) }
    let heard = try gate.run(clients) { UInt64($0.count) + gate.server.excessCount == 300 }
    #expect((30...60).contains(heard.count), "\(heard.count)")
    // Size counts: this one is over the burst by itself.
    try clients[1].send(envelope(.status(json: String(repeating: "x", count: 400_000))))
    // Nobody pays for another.
    try clients[1].send(envelope(.statusRequest))
    let others = try gate.run(clients) { !$0.isEmpty }
    #expect(others.map(\.peer.key) == [other.publicKey])
    #expect(gate.server.excessCount + UInt64(heard.count) == 301)
  }

  @Test func connectionsOfAKeyAreBounded() throws {
    let (mine, other) = (try KeyPair.generate(), try KeyPair.generate())
    let gate = try Gate([mine.publicKey: .init(role: .worker, connections: 3), other.publicKey: .worker])
    var clients = try (0..<5).map { _ in try gate.client(mine) }
    for client in clients { try client.send(envelope(.statusRequest)) }
    var heard = try gate.run(clients, seconds: 3) { $0.count > 3 }
    #expect(heard.count == 3)
    let free = try gate.client(other)
    try free.send(envelope(.statusRequest))
    #expect(try gate.run([free]) { !$0.isEmpty }.map(\.peer.key) == [other.publicKey])
    // When those three go, the two come in.
    let peers = Set(heard.map(\.peer))
    for peer in peers { try gate.server.send(envelope(.regroup), to: peer) }
    Thread.sleep(forTimeInterval: 0.2)
    try clients.removeAll { try !$0.poll(timeoutMilliseconds: 0).isEmpty }
    #expect(clients.count == 2)
    heard = try gate.run(clients, seconds: 20) { $0.count == 2 }
    #expect(heard.count == 2 && heard.allSatisfy { !peers.contains($0.peer) })
  }

  /// A connection that is kept without a word would hold its place for ever.
  @Test func aSilentConnectionIsClosed() throws {
    let mine = try KeyPair.generate()
    let gate = try Gate([mine.publicKey: .init(role: .worker, connections: 1)])
    let silent = try RawPeer(
      gate.server.endpoint, keys: ClientKeys(mine, server: gate.pair.publicKey), reconnects: false)
    try gate.run([], seconds: 1) { _ in false }
    let client = try gate.client(mine)
    try client.send(envelope(.statusRequest))
    #expect(try gate.run([client], seconds: 3) { !$0.isEmpty }.isEmpty)
    #expect(try gate.run([client], seconds: 30) { !$0.isEmpty }.count == 1)
    withExtendedLifetime(silent) {}
  }

  /// A key may be used on a socket of the host alone, too; and a socket without an authenticator lets nobody in.
  @Test func ipcCanBeEncrypted() throws {
    let mine = try KeyPair.generate()
    let path = FileManager.default.temporaryDirectory.path + "/gate-\(UUID().uuidString)"
    let server = try ControlServer(
      listen: "ipc://\(path)", keys: ServerKeys(mine, admitted: AdmittedKeys([mine.publicKey: .worker])))
    let client = try ControlClient(address: server.endpoint, keys: ClientKeys(mine, server: mine.publicKey))
    try client.send(envelope(.statusRequest))
    var heard: [Incoming] = []
    for _ in 0..<200 where heard.isEmpty {
      _ = try client.poll(timeoutMilliseconds: 10)
      heard += try server.poll(timeoutMilliseconds: 10)
    }
    #expect(heard.first?.peer.key == mine.publicKey)
  }

  @Test func garbageToAnEncryptedSocketDisturbsNobody() throws {
    let mine = try KeyPair.generate()
    let gate = try Gate([mine.publicKey: .worker])
    let client = try gate.client(mine)
    let noise = try RawPeer(gate.server.endpoint, keys: ClientKeys(mine, server: gate.pair.publicKey))
    var random = Noise(state: 8)
    for round in 0..<200 { try noise.send([random.bytes(round)]) }
    try client.send(envelope(.statusRequest))
    let heard = try gate.run([client]) { $0.count == 201 }
    #expect(heard.count == 201 && gate.server.malformedCount == 200)
  }
}

@Suite struct KeyPairTests {
  @Test func aKeyHasOneText() throws {
    let pair = try KeyPair.generate()
    #expect(pair.publicKey.text.utf8.count == PublicKey.textLength && pair.publicKey.bytes.count == 32)
    #expect(PublicKey(bytes: pair.publicKey.bytes) == pair.publicKey)
    #expect(PublicKey(pair.publicKey.text) == pair.publicKey)
    #expect(KeyPair(publicText: pair.publicKey.text, secretText: pair.secretText)?.publicKey == pair.publicKey)
    let other = try KeyPair.generate()
    #expect(KeyPair(publicText: other.publicKey.text, secretText: pair.secretText) == nil)
  }

  @Test func whatIsNoKeyIsRefused() {
    for bad in [
      "", "x", String(repeating: "a", count: 39), String(repeating: "a", count: 41), String(repeating: " ", count: 40),
      String(repeating: "#", count: 40), String(repeating: "\u{7F}", count: 40), String(repeating: "é", count: 20),
      String(repeating: "é", count: 40), String(repeating: "0", count: 39) + "\0", String(repeating: "0", count: 80),
    ] {
      #expect(PublicKey(bad) == nil, "\(bad.debugDescription)")
      #expect(KeyPair(publicText: bad, secretText: bad) == nil)
    }
    #expect(PublicKey(bytes: [1, 2, 3]) == nil)
  }

  @Test func aSecretIsNeverPrinted() throws {
    let pair = try KeyPair.generate()
    let keys = ClientKeys(pair, server: pair.publicKey)
    var dumped = ""
    dump(keys, to: &dumped)
    for text in ["\(pair)", String(reflecting: pair), dumped, "\(keys)", String(reflecting: keys)] {
      #expect(!text.contains(pair.secretText))
    }
  }
}
