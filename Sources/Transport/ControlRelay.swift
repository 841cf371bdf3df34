import Wire

#if canImport(Glibc)
  import Glibc
#else
  import Darwin
#endif

/// Passes the control messages of the workers of one host on over one connection (docs/decisions/0020): what the
/// coordinator says to several of them comes once, what they say at one time goes together.
///
/// Signs of life wait for company (``HeldBundle``). It reads nothing but who a message is for, and whether it can wait. To the coordinator those behind it have the relay's key; each has a seat
/// that nobody else is given, and speaks from there. Confined to the thread that made it, which is checked; other
/// threads use ``waker``.
public final class ControlRelay {
  /// Messages taken from one side before the other is looked at.
  static let messagesPerPoll = 256
  /// Those that answer at one time wait for each other so long; orders do not wait.
  static let gathering = Duration.milliseconds(1)

  /// The address that the workers of this host connect to.
  public let endpoint: String
  /// The coordinator's.
  public var address: String { coordinator.address.description }
  public let waker: Waker
  /// Why the coordinator does not let us in, once that is certain.
  public var refusal: TransportError? { coordinator.refusal }
  /// As ``ControlClient/failedHandshakes``.
  public var failedHandshakes: Int { coordinator.failedHandshakes }
  /// Messages of the coordinator's so far, each for one worker or several.
  public private(set) var orderCount = 0
  /// Messages to the coordinator so far, each of one worker or several.
  public private(set) var bundleCount = 0
  /// Messages so far that nobody could be found for, or that were none of ours.
  public private(set) var droppedCount: UInt64 = 0
  private let clock = ContinuousClock()
  private let coordinator: CoordinatorConnection
  private let workers: Socket
  private var seats: [[UInt8]: UInt32] = [:]
  private var identities: [UInt32: [UInt8]] = [:]
  private var newestSeat: UInt32 = 0
  private var held = HeldBundle()

  /// - Parameters:
  ///   - address: the coordinator's.
  ///   - listen: `ipc:///path`, made so that only this user can connect to it: workers of another host would have this
  ///     one's key.
  ///   - keys: this host's key pair and the coordinator's key; without them traffic to the coordinator is plain.
  ///   - allowPlaintext: accept that messages outside loopback and ipc are neither secret nor authentic.
  /// - Throws: ``TransportError``, among them `invalidAddress` for one to listen at that is not ipc.
  public init(
    address: String, listen: String, keys: ClientKeys? = nil, allowPlaintext: Bool = false
  ) throws(TransportError) {
    let local = try Endpoint(listen)
    guard case .ipc(let path) = local.kind else {
      throw .invalidAddress(address: listen, reason: "a relay is for the workers of its own host, at ipc:///path")
    }
    waker = try Waker()
    let context = try ZeroMQContext()
    coordinator = try CoordinatorConnection(address: address, keys: keys, allowPlaintext: allowPlaintext, in: context)
    workers = try Socket(.router, in: context, limits: .control)
    endpoint = try workers.bind(local, .plaintext(allowedOutsideHost: false))
    guard chmod(path, S_IRUSR | S_IWUSR) == 0 else { throw .permissionDenied(address: listen) }
  }

  /// Waits for messages at most so long, and passes on what there is; returns early when woken.
  public func poll(timeoutMilliseconds: Int) throws(TransportError) {
    // What is held is sent when it is due, whoever else is silent.
    let patience = held.deadline.map { max(clock.now.duration(to: $0) / .milliseconds(1), 0) } ?? .infinity
    try coordinator.wait(
      for: [workers], waker: waker, timeoutMilliseconds: Int(min(Double(timeoutMilliseconds), patience.rounded(.up))))
    // Last words before it is found that somebody has gone.
    try takeReports()
    try takeOrders()
    let deadline = clock.now + Self.gathering
    while held.urgentCount > 0, held.urgentCount < seats.count, clock.now < deadline {
      try coordinator.wait(for: [workers], waker: waker, timeoutMilliseconds: 1)
      try takeReports()
      try takeOrders()
    }
    if held.isDue(at: clock.now) { try send() }
  }

  private func takeOrders() throws(TransportError) {
    var taken = 0
    while taken < Self.messagesPerPoll,
      let (parts, excess) = try coordinator.receiveParts(atMost: 1 + Message.mostParts)
    {
      taken += 1
      guard parts.count > 1, excess == 0, let list = try? SeatList(reading: parts[0].bytes) else {
        droppedCount += 1
        continue
      }
      orderCount += 1
      for seat in list.seats where !(try deliver(parts.dropFirst(), to: seat)) {
        if let identity = identities.removeValue(forKey: seat) { seats[identity] = nil }
        droppedCount += 1
        if held.builder.isFull(forBytes: 0) { try send() }
        held.appendGone(seat)
      }
    }
  }

  /// - Returns: whether somebody is there.
  private func deliver(_ parts: ArraySlice<Message>, to seat: UInt32) throws(TransportError) -> Bool {
    guard let identity = identities[seat] else { return false }
    do throws(TransportError) {
      try workers.queue(Message(copying: identity), more: true)
      for (index, part) in zip(parts.indices, parts) {
        try workers.queue(Message(sharing: part), more: index + 1 < parts.endIndex)
      }
      return true
    } catch {
      switch error {
      // Whoever takes nothing of thousands of messages is as good as gone.
      case .peerUnreachable, .congested: return false
      default: throw error
      }
    }
  }

  private func takeReports() throws(TransportError) {
    var taken = 0
    while taken < Self.messagesPerPoll, let (parts, excess) = try workers.receiveParts(atMost: 2) {
      taken += 1
      guard parts.count == 2, excess == 0, parts[1].count > 0, parts[1].count <= WireLimits.messageBytes,
        let seat = seat(of: parts[0].bytes)
      else {
        droppedCount += 1
        continue
      }
      let (envelope, canWait) = Bundle.fromWorker(parts[1].bytes)
      guard !envelope.isEmpty else {
        droppedCount += 1
        continue
      }
      if held.builder.isFull(forBytes: envelope.count) { try send() }
      held.append(envelope, from: seat, canWait: canWait, at: clock.now)
    }
  }

  /// Nil when there are too many already.
  private func seat(of identity: [UInt8]) -> UInt32? {
    if let seat = seats[identity] { return seat }
    guard seats.count < Bundle.entriesLimit else { return nil }
    newestSeat += 1
    seats[identity] = newestSeat
    identities[newestSeat] = identity
    return newestSeat
  }

  private func send() throws(TransportError) {
    guard held.builder.count > 0 else { return }
    defer { held = HeldBundle() }
    bundleCount += 1
    do throws(TransportError) { try coordinator.send(Message(copying: held.builder.bytes)) } catch {
      // Nothing but this: a worker's own queue ends there, too.
      guard case .congested = error else { throw error }
      droppedCount += UInt64(held.builder.count)
    }
  }
}
