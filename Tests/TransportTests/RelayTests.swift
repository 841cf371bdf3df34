import ClusterModel
import Foundation
import Testing
import Transport
import Wire

/// A coordinator's socket, a relay to it, and workers behind the relay, all in the test's thread.
private final class Host {
  let server: ControlServer
  let relay: ControlRelay
  var workers: [ControlClient] = []
  var heard: [Incoming] = []
  /// What each worker was told.
  var told: [[ControlMessage]] = []

  init(_ server: ControlServer, keys: ClientKeys? = nil, workers count: Int) throws {
    self.server = server
    let path = FileManager.default.temporaryDirectory.path + "/relay-\(UUID().uuidString)"
    relay = try ControlRelay(address: server.endpoint, listen: "ipc://\(path)", keys: keys)
    for _ in 0..<count { try join() }
  }
  convenience init(workers: Int) throws {
    try self.init(ControlServer(listen: "tcp://127.0.0.1:*"), workers: workers)
  }
  func join() throws {
    workers.append(try ControlClient(address: relay.endpoint, isRelay: true))
    told.append([])
  }

  /// Lets all ends work until `condition` holds or so much time has passed.
  @discardableResult func run(seconds: Double = 10, until condition: (Host) -> Bool) throws -> Bool {
    let deadline = Date().addingTimeInterval(seconds)
    while Date() < deadline {
      for (index, worker) in workers.enumerated() {
        told[index] += try worker.poll(timeoutMilliseconds: 1).map(\.message)
      }
      try relay.poll(timeoutMilliseconds: 1)
      heard += try server.poll(timeoutMilliseconds: 1)
      if condition(self) { return true }
    }
    return false
  }

  func say(_ message: ControlMessage, worker: Int) throws { try workers[worker].send(Self.envelope(message, worker)) }
  static func envelope(_ message: ControlMessage, _ worker: Int) -> Envelope {
    Envelope(run: RunID("run"), generation: Generation(1), sender: .worker(WorkerID(UInt32(worker))), message: message)
  }
  static func order(_ message: ControlMessage) -> Envelope {
    Envelope(run: RunID("run"), generation: Generation(1), sender: .coordinator, message: message)
  }

  /// Each worker's place at the coordinator, by what it said: all say hello by their number first.
  func introduceAll() throws -> [PeerIdentity] {
    for index in workers.indices { try say(.copied(step: Step(index)), worker: index) }
    #expect(try run { $0.heard.count == workers.count })
    var peers: [Step: PeerIdentity] = [:]
    for incoming in heard {
      if case .envelope(let envelope) = incoming.content, case .copied(let step) = envelope.message {
        peers[step] = incoming.peer
      }
    }
    heard = []
    return try workers.indices.map { try #require(peers[Step($0)]) }
  }
}

extension [Incoming] {
  fileprivate var steps: [PeerIdentity: [Step]] {
    var steps: [PeerIdentity: [Step]] = [:]
    for incoming in self {
      if case .envelope(let envelope) = incoming.content, case .copied(let step) = envelope.message {
        steps[incoming.peer, default: []].append(step)
      }
    }
    return steps
  }
  fileprivate var gone: [PeerIdentity] {
    compactMap { if case .gone = $0.content { $0.peer } else { nil } }
  }
}

@Suite(.timeLimit(.minutes(2)), .serialized) struct RelayTests {
  @Test("each is heard from a place of its own, in order, and told what is for it alone")
  func placesOfTheirOwn() throws {
    let host = try Host(workers: 3)
    let peers = try host.introduceAll()
    #expect(Set(peers).count == 3)
    #expect(Set(peers.map(\.description)).count == 3)
    for step in Step(0)..<100 { for worker in 0..<3 { try host.say(.copied(step: step), worker: worker) } }
    #expect(try host.run { $0.heard.count == 300 })
    for peer in peers { #expect(host.heard.steps[peer] == Array(0..<100)) }
    for (index, peer) in peers.enumerated() {
      try host.server.send(Host.order(.runStep(step: Step(index))), to: peer)
    }
    #expect(try host.run { $0.told.allSatisfy { $0.count == 1 } })
    #expect(host.told == (0..<3).map { [.runStep(step: Step($0))] })
  }

  @Test("an order to all goes over the connection once, also one of many parts")
  func ordersToAll() throws {
    let host = try Host(workers: 4)
    let peers = try host.introduceAll()
    let plan = Plan(
      stageUnits: [0..<3], replicaLeaves: [0..<1], places: [[WorkerID(1)]], spares: [], schedule: .gpipe)
    var prepare = Prepare(plan: plan, peers: [], fromStep: 3, origin: .seed)
    for number in UInt32(1)...5_000 {
      prepare.peers.append(Peer(worker: WorkerID(number), dataEndpoint: "tcp://10.0.0.1:\(20_000 + number)"))
    }
    let orders: [ControlMessage] = [.runStep(step: 1), .prepare(prepare), .runStep(step: 2)]
    for order in orders { #expect(host.server.send(Host.order(order), to: peers).isEmpty) }
    #expect(try host.run { $0.told.allSatisfy { $0.count == 3 } })
    for told in host.told { #expect(told == orders) }
    #expect(host.relay.orderCount == orders.count)
    // To some of them, and to one with a connection of its own.
    let alone = try ControlClient(address: host.server.endpoint)
    try alone.send(Host.envelope(.copied(step: 9), 9))
    _ = try alone.poll(timeoutMilliseconds: 100)
    #expect(try host.run { !$0.heard.isEmpty })
    let other = try #require(host.heard.first).peer
    #expect(host.server.send(Host.order(.evaluate(step: 5)), to: [peers[0], other, peers[2]]).isEmpty)
    #expect(try host.run { $0.told[0].count == 4 && $0.told[2].count == 4 })
    #expect(host.told.map(\.count) == [4, 3, 4, 3])
    #expect(try alone.poll(timeoutMilliseconds: 2_000).map(\.message) == [.evaluate(step: 5)])
  }

  @Test("signs of life go together, at the latest when they have waited, and before what the same worker says next")
  func signsOfLifeWait() throws {
    let host = try Host(workers: 4)
    let peers = try host.introduceAll()
    func beat(_ worker: Int, _ progress: UInt64) throws {
      try host.say(
        .heartbeat(
          Heartbeat(progress: progress, step: 0, phase: "idle", microbatchesPerSecond: 0, memoryBytes: 0, order: 0)),
        worker: worker)
    }
    func progress(_ incoming: Incoming) -> UInt64? {
      guard case .envelope(let envelope) = incoming.content, case .heartbeat(let beat) = envelope.message else {
        return nil
      }
      return beat.progress
    }
    // Nothing comes for half of the time that they wait.
    let before = host.relay.bundleCount
    for worker in 0..<4 { try beat(worker, UInt64(worker)) }
    let began = Date()
    #expect(try host.run { !$0.heard.isEmpty })
    #expect(Date().timeIntervalSince(began) > 0.1)
    #expect(host.relay.bundleCount == before + 1)
    #expect(Set(host.heard.map(\.peer)) == Set(peers) && host.heard.allSatisfy { progress($0) != nil })
    // What somebody waits for takes them along, behind what was said before.
    host.heard = []
    try beat(2, 7)
    try host.run(seconds: 0.02) { _ in false }
    try host.say(.copied(step: 5), worker: 2)
    #expect(try host.run { $0.heard.count == 2 })
    #expect(progress(host.heard[0]) == 7 && host.heard.steps == [peers[2]: [5]])
    #expect(host.relay.bundleCount == before + 2)
  }

  @Test("who has gone is reported when something is for it; the others stay")
  func whoHasGone() throws {
    let host = try Host(workers: 3)
    let peers = try host.introduceAll()
    host.workers.remove(at: 1)
    host.told.remove(at: 1)
    try host.run(seconds: 0.3) { _ in false }
    // More than once: the library may notice the end of a connection after the first.
    for _ in 0..<50 where host.heard.gone.isEmpty {
      #expect(host.server.send(Host.order(.runStep(step: 1)), to: peers).isEmpty)
      try host.run(seconds: 0.1) { _ in false }
    }
    #expect(Set(host.heard.gone) == [peers[1]])
    #expect(host.told.allSatisfy { !$0.isEmpty })
    // A place is not given again.
    try host.join()
    host.heard = []
    try host.say(.copied(step: 7), worker: 2)
    #expect(try host.run { !$0.heard.steps.isEmpty })
    #expect(!peers.contains(try #require(host.heard.first?.peer)))
  }

  @Test(
    "what is said before the coordinator is there arrives when it comes; without a relay all of its workers are gone")
  func relayAndCoordinatorComeAndGo() throws {
    let probe = try ControlServer(listen: "tcp://127.0.0.1:*")
    let address = probe.endpoint
    _ = consume probe
    let path = FileManager.default.temporaryDirectory.path + "/relay-\(UUID().uuidString)"
    var relay: ControlRelay? = try ControlRelay(address: address, listen: "ipc://\(path)")
    let worker = try ControlClient(address: "ipc://\(path)")
    for step in Step(0)..<3 { try worker.send(Host.envelope(.copied(step: step), 0)) }
    for _ in 0..<20 {
      _ = try worker.poll(timeoutMilliseconds: 5)
      try relay?.poll(timeoutMilliseconds: 5)
    }
    let server = try ControlServer(listen: address)
    var heard: [Incoming] = []
    for _ in 0..<1_000 where heard.count < 3 {
      try relay?.poll(timeoutMilliseconds: 5)
      heard += try server.poll(timeoutMilliseconds: 5)
    }
    let peer = try #require(heard.first).peer
    #expect(heard.steps[peer] == [0, 1, 2])
    relay = nil
    #expect(!FileManager.default.fileExists(atPath: path))
    var failures: [TransportError] = []
    for _ in 0..<100 where failures.isEmpty {
      failures = server.send(Host.order(.runStep(step: 1)), to: [peer]).map(\.error)
      _ = try server.poll(timeoutMilliseconds: 20)
    }
    #expect(failures == [.peerUnreachable])
    withExtendedLifetime(worker) {}
  }

  @Test("with keys those behind a relay have its key, and are out when that is struck off")
  func keysOfTheRelay() throws {
    let (pair, mine, other) = (try KeyPair.generate(), try KeyPair.generate(), try KeyPair.generate())
    let admitted = AdmittedKeys([mine.publicKey: .init(role: .worker, connections: 1)])
    let server = try ControlServer(listen: "tcp://127.0.0.1:*", keys: ServerKeys(pair, admitted: admitted))
    let host = try Host(server, keys: ClientKeys(mine, server: pair.publicKey), workers: 2)
    let peers = try host.introduceAll()
    #expect(peers.allSatisfy { $0.key == mine.publicKey })
    admitted.admit(only: [other.publicKey: .init(role: .worker, connections: 1)])
    host.heard = []
    try host.say(.copied(step: 1), worker: 0)
    try host.run(seconds: 0.5) { _ in false }
    #expect(host.heard.isEmpty && server.refusedCount > 0)
    #expect(server.send(Host.order(.runStep(step: 1)), to: peers).map(\.error) == [.peerUnreachable, .peerUnreachable])
    server.hangUpOnStrangers()
    #expect(try host.run { $0.relay.refusal != nil })
    #expect(host.relay.refusal == .notAuthorised(address: server.endpoint))
  }

  @Test func nobodyObservesInABundle() throws {
    let (pair, mine) = (try KeyPair.generate(), try KeyPair.generate())
    let admitted = AdmittedKeys([mine.publicKey: .init(role: .observer, connections: 1)])
    let server = try ControlServer(listen: "tcp://127.0.0.1:*", keys: ServerKeys(pair, admitted: admitted))
    let host = try Host(server, keys: ClientKeys(mine, server: pair.publicKey), workers: 1)
    try host.say(.copied(step: 1), worker: 0)
    try host.workers[0].send(
      Envelope(run: RunID(""), generation: Generation(0), sender: .observer, message: .statusRequest))
    #expect(try host.run { $0.server.refusedCount > 0 })
    try host.run(seconds: 0.2) { _ in false }
    #expect(host.heard.isEmpty)
  }

  @Test("garbage in and as bundles is counted, and disturbs nobody; a flood of bundles is cut")
  func garbage() throws {
    let server = try ControlServer(
      listen: "tcp://127.0.0.1:*", rate: ControlRate(tokensPerSecond: 1, burstTokens: 100))
    let host = try Host(server, workers: 1)
    _ = try host.introduceAll()
    let stranger = try RawPeer(server.endpoint)
    try stranger.send([[0]])
    try stranger.send([[0, 1, 2, 3]])
    try stranger.send([[0, 1, 0, 0, 0, 2, 0, 0, 0, 9, 9]])
    try stranger.send([[0], [0]])
    #expect(try host.run { $0.heard.count == 4 })
    #expect(server.malformedCount == 4)
    var bundle = Bundle.Builder()
    for _ in 0..<400 { bundle.append(Host.envelope(.statusRequest, 1).encoded(), from: 1) }
    for _ in 0..<20 { try stranger.send([bundle.bytes]) }
    #expect(try host.run { $0.server.excessCount >= 18 })
    host.heard = []
    try host.say(.copied(step: 3), worker: 0)
    #expect(try host.run { !$0.heard.steps.isEmpty })
  }

  @Test("garbage from a worker is the worker's: it is passed on as its own, or dropped")
  func garbageBehindTheRelay() throws {
    let host = try Host(workers: 1)
    let stranger = try RawPeer(host.relay.endpoint)
    try stranger.send([[1, 2, 3]])
    try stranger.send([[1], [2]])
    try stranger.send([[]])
    #expect(try host.run { $0.heard.count == 1 && $0.relay.droppedCount == 2 })
    #expect(host.server.malformedCount == 1)
    host.heard = []
    let peers = try host.introduceAll()
    #expect(peers.count == 1)
  }

  @Test func aRelayListensOnItsHostOnly() throws {
    let server = try ControlServer(listen: "tcp://127.0.0.1:*")
    #expect(throws: TransportError.self) {
      try ControlRelay(address: server.endpoint, listen: "tcp://127.0.0.1:*")
    }
    let path = FileManager.default.temporaryDirectory.path + "/relay-\(UUID().uuidString)"
    let relay = try ControlRelay(address: server.endpoint, listen: "ipc://\(path)")
    let mode = try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    #expect(throws: TransportError.addressInUse(address: "ipc://\(path)")) {
      try ControlRelay(address: server.endpoint, listen: "ipc://\(path)")
    }
    withExtendedLifetime(relay) {}
  }
}
