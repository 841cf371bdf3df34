import CZeroMQ
import Foundation

/// Decides who may connect to a bound socket: the handler of the ZeroMQ Authentication Protocol (RFC 27) in the
/// socket's context, on a thread of its own.
///
/// A request for each connection arrives at `inproc://zeromq.zap.01`, after the peer has proved to hold its key and
/// before it can say anything. The answer's user ID is the key's text, which the library puts on every message of
/// the connection: who somebody is comes from there, never from what they say.
final class Authenticator: Sendable {
  /// RFC 27's address; one handler in each context.
  private static let address = "inproc://zeromq.zap.01"
  private static let noteSeconds = 10.0

  /// What becomes of a key that is not on the list.
  enum Stranger: Sendable {
    /// Told that it is refused, so that its user learns it: it does not try again.
    case refused
    /// Kept waiting: it gets in as soon as it is on the list. The library ends a handshake that takes 5 s, and the
    /// other end begins a new one.
    case awaited
  }
  private static let heldLimit = 1_024
  private static let heldFor = Duration.seconds(5)

  let connections = OpenConnections()
  private let keys: ServerKeys
  private let domain: String
  private let stranger: Stranger
  private let waker: Waker
  private struct Life {
    var start: Result<Void, TransportError>?
    var stopping = false
    var ended = false
  }
  private let life = Monitor(Life())

  /// Starts the handler; ``bind(_:to:)`` comes next.
  init(
    _ keys: ServerKeys, domain: String, stranger: Stranger, in context: ZeroMQContext
  ) throws(TransportError) {
    self.keys = keys
    self.domain = domain
    self.stranger = stranger
    waker = try Waker()
    let thread = Thread { [self] in
      ThreadName.set("authenticator")
      let failure: TransportError?
      do throws(TransportError) {
        try work(in: context)
        failure = nil
      } catch {
        failure = error
        keys.note("nobody new can connect any more, the authenticator has failed: \(error)")
      }
      life.change { life in
        if life.start == nil, let failure { life.start = .failure(failure) }
        life.ended = true
      }
    }
    thread.start()
    try life.wait(atMost: .seconds(60)) { $0.start }?.get()
  }

  private static let events =
    ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED
    | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL
  private static let monitorAddress = "inproc://connections"

  /// Binds a socket whose peers this decides about. By the socket's thread, which calls ``leave(_:)`` before the
  /// socket goes.
  func bind(_ socket: Socket, to endpoint: Endpoint) throws(TransportError) -> String {
    do throws(TransportError) {
      try socket.startMonitor(Self.monitorAddress, events: Self.events)
      let address = try socket.bind(endpoint, .server(keys.pair, domain: domain))
      connections.setPort(Endpoint.port(of: address))
      return address
    } catch {
      leave(socket)
      throw error
    }
  }

  /// Ends the thread; in this order, because nobody would take the library's reports any more.
  func leave(_ socket: Socket) {
    socket.stopMonitor()
    life.change { $0.stopping = true }
    waker.wake()
    _ = life.wait(atMost: .seconds(30)) { $0.ended ? true : nil as Bool? }
  }

  /// Lets in who waits and has been put on the list.
  func reconsider() { waker.wake() }

  // MARK: The thread

  private func work(in context: ZeroMQContext) throws(TransportError) {
    let clock = ContinuousClock()
    let limits = Socket.Limits(messageBytes: 4_096, sendMessages: 0, receiveMessages: 0)
    // A router, not a reply socket: some answers have to wait while others are given.
    let requests = try Socket(.router, in: context, limits: limits)
    try requests.bindInside(Self.address)
    let events = try Socket(.pair, in: context, limits: limits)
    try events.connectInside(Self.monitorAddress)
    life.change { $0.start = .success(()) }
    var notes = Notes(note: keys.note, now: clock.now)
    var swept = clock.now
    var held: [Request] = []
    while !life.withLock({ $0.stopping }) {
      try Socket.wait(for: [(requests, false), (events, false)], waker: waker, timeoutMilliseconds: 1_000)
      try takeEvents(events, &notes, clock.now)
      var open = held.filter { clock.now - $0.since < Self.heldFor }
      held = []
      while let (parts, excess) = try requests.receiveParts(atMost: 10) {
        open.append(Request(parts.map(\.bytes), excess: excess, since: clock.now))
      }
      // A connection's acceptance is reported before its request is made: it must be known before its answer.
      try takeEvents(events, &notes, clock.now)
      for request in open {
        switch answer(request, mayWait: held.count < Self.heldLimit, &notes, now: clock.now) {
        case .wait: held.append(request)
        case .reply(let code, let text, let user): try send(request.reply(code, text, user), over: requests)
        }
      }
      if clock.now - swept >= .seconds(1) {
        swept = clock.now
        connections.closeSilent(now: swept)
      }
    }
  }

  private func takeEvents(_ events: Socket, _ notes: inout Notes, _ now: ContinuousClock.Instant) throws(TransportError)
  {
    while let event = try events.receiveMonitorEvent() {
      switch event.kind {
      case ZMQ_EVENT_ACCEPTED: connections.accepted(event.value, now: now)
      case ZMQ_EVENT_DISCONNECTED, ZMQ_EVENT_CLOSED: connections.closed(event.value)
      case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        notes.say(
          "turned away a peer that does not encrypt, or that expects another key here than \(keys.pair.publicKey)", now)
      default: break
      }
    }
  }

  /// Notes for the operator: a few, however many knock.
  private struct Notes {
    let note: @Sendable (String) -> Void
    private var bucket: TokenBucket
    private var suppressed = 0
    init(note: @escaping @Sendable (String) -> Void, now: ContinuousClock.Instant) {
      self.note = note
      bucket = TokenBucket(burst: 10, now: now)
    }
    mutating func say(_ text: String, _ now: ContinuousClock.Instant) {
      guard bucket.take(1, perSecond: 1 / Authenticator.noteSeconds, burst: 10, now: now) else {
        suppressed += 1
        return
      }
      note(suppressed == 0 ? text : "\(text) (and \(suppressed) more before)")
      suppressed = 0
    }
  }

  // MARK: The protocol

  /// A request as RFC 27 has it.
  private struct Request {
    /// What the answer begins with.
    private let routing: [[UInt8]]
    private let version: [UInt8]
    private let id: [UInt8]
    let domain: [UInt8]
    let address: String
    /// Nil unless the mechanism is CURVE.
    let key: PublicKey?
    let isWellFormed: Bool
    let since: ContinuousClock.Instant

    init(_ frames: [[UInt8]], excess: Int, since: ContinuousClock.Instant) {
      // routing, delimiter; version, request ID, domain, address, identity, mechanism, credentials
      func frame(_ index: Int) -> [UInt8] { index < frames.count ? frames[index] : [] }
      routing = Array(frames.prefix(2))
      version = frame(2)
      id = frame(3)
      domain = frame(4)
      address = String(decoding: frame(5).prefix(64), as: UTF8.self)
      key = frame(7) == Array("CURVE".utf8) && frames.count == 9 ? PublicKey(bytes: frame(8)) : nil
      isWellFormed = frames.count >= 8 && excess == 0 && version == Array("1.0".utf8)
      self.since = since
    }

    func reply(_ code: String, _ text: String, _ user: String) -> [[UInt8]] {
      routing + [Array("1.0".utf8), id, Array(code.utf8), Array(text.utf8), Array(user.utf8), []]
    }
  }

  private enum Answer {
    case reply(code: String, text: String, user: String = "")
    case wait
  }

  private func answer(
    _ request: Request, mayWait: Bool, _ notes: inout Notes, now: ContinuousClock.Instant
  ) -> Answer {
    guard request.isWellFormed else { return .reply(code: "500", text: "not a request of version 1.0") }
    guard request.domain == Array(domain.utf8) else { return .reply(code: "400", text: "unknown domain") }
    guard let key = request.key else {
      notes.say("turned away \(request.address): it does not use CURVE", now)
      return .reply(code: "400", text: "CURVE is required")
    }
    guard let admission = keys.admitted.admission(of: key) else {
      switch stranger {
      case .refused:
        notes.say("turned away \(request.address): its key \(key) is not authorised", now)
        return .reply(code: "400", text: "not authorised")
      case .awaited: return mayWait ? .wait : .reply(code: "300", text: "not now")
      }
    }
    guard connections.admit(key.text, atMost: admission.connections, now: now) else {
      notes.say(
        "turned away \(request.address): the key \(key) has \(admission.connections) connections already, its limit",
        now)
      return .reply(code: "300", text: "too many connections")
    }
    return .reply(code: "200", text: "OK", user: key.text)
  }

  private func send(_ frames: [[UInt8]], over socket: Socket) throws(TransportError) {
    for (index, frame) in frames.enumerated() {
      switch socket.send(Message(copying: frame), more: index + 1 < frames.count) {
      case .sent: break
      // Who asked has hung up.
      case .unreachable, .wouldBlock: return
      case .failed(let error): throw error
      }
    }
  }
}
