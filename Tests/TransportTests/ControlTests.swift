import ClusterModel
import Foundation
import Testing
import Transport
import Wire

private func envelope(_ message: ControlMessage, generation: UInt64 = 1) -> Envelope {
  Envelope(run: RunID("run"), generation: Generation(generation), sender: .worker(WorkerID(1)), message: message)
}

extension ControlServer {
  /// Polls until so many messages came or ten seconds passed.
  fileprivate func take(_ count: Int) throws -> [Incoming] {
    var result: [Incoming] = []
    let clock = ContinuousClock()
    let deadline = clock.now + .seconds(10)
    while result.count < count && clock.now < deadline { result += try poll(timeoutMilliseconds: 50) }
    return result
  }
}
extension ControlClient {
  fileprivate func take(_ count: Int) throws -> [Envelope] {
    var result: [Envelope] = []
    let clock = ContinuousClock()
    let deadline = clock.now + .seconds(10)
    while result.count < count && clock.now < deadline { result += try poll(timeoutMilliseconds: 50) }
    return result
  }
}

@Suite(.timeLimit(.minutes(2)), .serialized) struct ControlTests {
  @Test func messagesGoBothWaysInOrder() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    let client = try ControlClient(address: server.endpoint)
    defer { withExtendedLifetime(client) {} }
    for step in Step(0)..<200 { try client.send(envelope(.runStep(step: step))) }
    var steps: [Step] = []
    var peer: PeerIdentity?
    _ = try client.poll(timeoutMilliseconds: 200)
    for incoming in try server.take(200) {
      if case .envelope(let envelope) = incoming.content, case .runStep(let step) = envelope.message {
        steps.append(step)
      }
      peer = incoming.peer
    }
    #expect(steps == Array(0..<200))
    let back = try #require(peer)
    for step in Step(0)..<50 { try server.send(envelope(.evaluate(step: step)), to: back) }
    #expect(try client.take(50).map(\.message) == (Step(0)..<50).map { .evaluate(step: $0) })
  }

  @Test("an order that is larger than one write to a connection arrives whole, at everybody")
  func largeOrders() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    let clients = try (0..<3).map { _ in try ControlClient(address: server.endpoint) }
    var peers: [PeerIdentity] = []
    for client in clients {
      try client.send(envelope(.statusRequest))
      _ = try client.poll(timeoutMilliseconds: 200)
      peers += try server.take(1).map(\.peer)
    }
    let plan = Plan(
      stageUnits: [0..<3], replicaLeaves: [0..<1], places: [[WorkerID(1)]], spares: [], schedule: .gpipe)
    var prepare = Prepare(plan: plan, peers: [], fromStep: 3, origin: .seed)
    for number in UInt32(1)...5_000 {
      prepare.peers.append(Peer(worker: WorkerID(number), dataEndpoint: "tcp://10.0.0.1:\(20_000 + number)"))
    }
    var order = envelope(.prepare(prepare))
    order.order = 4
    #expect(order.encoded().count > 100_000)
    #expect(server.send(order, to: peers).isEmpty)
    // Once more to one of them, as to one that has not got it.
    try server.send(order, to: peers[1])
    for (index, client) in clients.enumerated() {
      let count = index == 1 ? 2 : 1
      #expect(try client.take(count) == [Envelope](repeating: order, count: count))
    }
  }

  @Test func ipcWorks() throws {
    let path = FileManager.default.temporaryDirectory.path + "/control-\(UUID().uuidString)"
    let server = try ControlServer(listen: "ipc://\(path)")
    defer { withExtendedLifetime(server) {} }
    let client = try ControlClient(address: server.endpoint)
    defer { withExtendedLifetime(client) {} }
    try client.send(envelope(.statusRequest))
    _ = try client.poll(timeoutMilliseconds: 200)
    #expect(try server.take(1).count == 1)
    // Another server would take the path over without a word.
    #expect(throws: TransportError.addressInUse(address: "ipc://\(path)")) {
      try ControlServer(listen: "ipc://\(path)")
    }
  }

  @Test func aMessageSentBeforeTheServerExistsArrives() throws {
    let probe = try ControlServer(listen: "tcp://127.0.0.1:*")
    let address = probe.endpoint
    _ = consume probe
    let client = try ControlClient(address: address)
    defer { withExtendedLifetime(client) {} }
    try client.send(envelope(.statusRequest))
    #expect(try client.poll(timeoutMilliseconds: 50).isEmpty)
    let server = try ControlServer(listen: address)
    defer { withExtendedLifetime(server) {} }
    var taken: [Incoming] = []
    for _ in 0..<100 where taken.isEmpty {
      _ = try client.poll(timeoutMilliseconds: 50)
      taken = try server.poll(timeoutMilliseconds: 50)
    }
    #expect(taken.count == 1)
  }

  @Test func aPortInUseIsNamed() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    #expect(throws: TransportError.addressInUse(address: server.endpoint)) {
      try ControlServer(listen: server.endpoint)
    }
    #expect(throws: TransportError.addressInUse(address: server.endpoint)) { try DataPlane(bind: server.endpoint) }
    #expect("\(TransportError.addressInUse(address: server.endpoint))".contains(server.endpoint))
  }

  @Test func plainTextStaysOnTheHostUnlessAskedFor() throws {
    let port = "tcp://0.0.0.0:*"
    #expect(throws: TransportError.plaintextRefused(address: port)) { try ControlServer(listen: port) }
    #expect(throws: TransportError.plaintextRefused(address: port)) { try DataPlane(bind: port) }
    #expect(throws: TransportError.plaintextRefused(address: "tcp://example.org:1")) {
      try ControlClient(address: "tcp://example.org:1")
    }
    #expect("\(TransportError.plaintextRefused(address: port))".contains("--insecure-plaintext"))
    _ = try ControlServer(listen: port, allowPlaintext: true)
    for loopback in ["tcp://localhost:*", "tcp://127.0.0.2:*", "tcp://127.0.0.1:*"] {
      _ = try ControlServer(listen: loopback)
    }
    for remote in ["tcp://127.0.0.1.example.org:1", "tcp://127.1:1", "tcp://10.0.0.1:5", "tcp://*:1"] {
      #expect(throws: TransportError.self) { try Endpoint(remote).requirePlaintextIsFine(allowed: false) }
    }
  }

  @Test func addressesAreChecked() {
    for bad in [
      "", "7070", "tcp://", "tcp://:1", "tcp://a", "tcp://a:b", "tcp://a:70000", "udp://a:1", "ipc://",
      "ipc://relative",
      "tcp://a b:1", "ipc:///" + String(repeating: "x", count: 200), "tcp://127.0.0.1;127.0.0.1:1",
    ] {
      #expect(throws: TransportError.self, "\(bad)") { try Endpoint(bad) }
    }
    #expect(throws: TransportError.addressUnavailable(address: "tcp://192.0.2.1:0")) {
      try ControlServer(listen: "tcp://192.0.2.1:0", allowPlaintext: true)
    }
    #expect(throws: TransportError.self) { try ControlServer(listen: "ipc:///no/such/directory/socket") }
  }

  @Test func workersListenWhereTheirPeersAre() throws {
    #expect(try Endpoint.binding(toward: "tcp://127.0.0.1:7070") == "tcp://127.0.0.1:*")
    #expect(try Endpoint.binding(toward: "tcp://localhost:7070") == "tcp://127.0.0.1:*")
    #expect(try Endpoint.binding(toward: "ipc:///tmp/a").hasPrefix("ipc:///"))
    _ = try DataPlane(bind: Endpoint.binding(toward: "ipc:///tmp/a"))
  }

  @Test func garbageIsCountedAndDisturbsNobody() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    let client = try ControlClient(address: server.endpoint)
    defer { withExtendedLifetime(client) {} }
    let stranger = try RawPeer(server.endpoint)
    var noise = Noise(state: 3)
    for round in 0..<500 { try stranger.send([noise.bytes(round)]) }
    try stranger.send([[1], [2], [3]])
    try stranger.send([[], envelope(.statusRequest).encoded()])
    try client.send(envelope(.statusRequest))
    _ = try client.poll(timeoutMilliseconds: 200)
    let incoming = try server.take(503)
    #expect(incoming.count == 503)
    let good = incoming.compactMap { incoming in
      if case .envelope(let envelope) = incoming.content { return envelope.message } else { return nil }
    }
    #expect(good == [.statusRequest])
    #expect(server.malformedCount == 502)
  }

  @Test func aFloodDoesNotKeepOthersOut() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    let endpoint = server.endpoint
    let flooding = Flag()
    let flood = Thread {
      guard let stranger = try? RawPeer(endpoint) else { return }
      while !flooding.isSet { try? stranger.send([[UInt8](repeating: 9, count: 100)]) }
    }
    flood.start()
    defer { flooding.set() }
    // Let the flood fill what it can.
    for _ in 0..<3 { #expect(try server.poll(timeoutMilliseconds: 100).count <= ControlServer.messagesPerPoll) }
    let client = try ControlClient(address: endpoint)
    defer { withExtendedLifetime(client) {} }
    try client.send(envelope(.statusRequest))
    var polls = 0
    var found = false
    while !found && polls < 1_000 {
      _ = try client.poll(timeoutMilliseconds: 0)
      for incoming in try server.poll(timeoutMilliseconds: 10) {
        if case .envelope = incoming.content { found = true }
      }
      polls += 1
    }
    #expect(found)
  }

  @Test func theWakerEndsAPoll() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    let waker = server.waker
    let clock = ContinuousClock()
    let start = clock.now
    let thread = Thread {
      Thread.sleep(forTimeInterval: 0.1)
      waker.wake()
    }
    thread.start()
    #expect(try server.poll(timeoutMilliseconds: 20_000).isEmpty)
    #expect(clock.now - start < .seconds(10))
    // The signal was taken: the next poll waits.
    let again = clock.now
    _ = try server.poll(timeoutMilliseconds: 100)
    #expect(clock.now - again >= .milliseconds(90))
  }

  @Test func sendingToAPeerThatHasGoneIsAnError() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    defer { withExtendedLifetime(server) {} }
    let peer: PeerIdentity
    do {
      let client = try ControlClient(address: server.endpoint)
      try client.send(envelope(.statusRequest))
      _ = try client.poll(timeoutMilliseconds: 200)
      peer = try #require(try server.take(1).first).peer
    }
    var failure: TransportError?
    for _ in 0..<100 where failure == nil {
      do throws(TransportError) { try server.send(envelope(.regroup), to: peer) } catch { failure = error }
      _ = try server.poll(timeoutMilliseconds: 20)
    }
    #expect(failure == .peerUnreachable)
  }

  @Test func messagesWithoutAConnectionAreBounded() throws {
    let probe = try ControlServer(listen: "tcp://127.0.0.1:*")
    let address = probe.endpoint
    _ = consume probe
    let client = try ControlClient(address: address)
    defer { withExtendedLifetime(client) {} }
    for _ in 0..<ControlClient.queueLimit { try client.send(envelope(.statusRequest)) }
    #expect(throws: TransportError.congested(queuedMessages: ControlClient.queueLimit)) {
      try client.send(envelope(.statusRequest))
    }
  }
}

/// A switch between threads.
///
// Safe because the value is reached under the lock only.
final class Flag: @unchecked Sendable {
  private let lock = NSLock()
  private var value = false
  var isSet: Bool { lock.withLock { value } }
  func set() { lock.withLock { value = true } }
}
