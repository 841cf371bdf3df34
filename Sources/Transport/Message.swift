import CZeroMQ

/// One part of a ZeroMQ message; its memory goes back to the library with the last reference.
///
// Safe because a message has one user at a time: the I/O thread hands it over through a lock, and nobody
// writes to it afterwards.
final class Message: @unchecked Sendable {
  /// On the heap: short contents lie inside the structure, whose address must not change while they are read.
  let pointer: UnsafeMutablePointer<zmq_msg_t>

  /// An empty part, to be received into.
  init() {
    pointer = .allocate(capacity: 1)
    pointer.initialize(to: zmq_msg_t())
    zmq_msg_init(pointer)
  }

  /// A part of `size` bytes, to be filled.
  init(size: Int) {
    pointer = .allocate(capacity: 1)
    pointer.initialize(to: zmq_msg_t())
    precondition(zmq_msg_init_size(pointer, size) == 0, "out of memory for a message of \(size) bytes")
  }

  convenience init(copying bytes: [UInt8]) {
    self.init(size: bytes.count)
    bytes.withUnsafeBytes(fill)
  }
  /// The same bytes once more: the library counts who still needs them.
  init(sharing other: Message) {
    pointer = .allocate(capacity: 1)
    pointer.initialize(to: zmq_msg_t())
    zmq_msg_init(pointer)
    precondition(zmq_msg_copy(pointer, other.pointer) == 0, "a message that is open can be shared")
  }
  /// A part of a frame's memory, not copied: the memory lives until the library has sent it.
  init(sending frame: FrameMemory, _ range: Range<Int>) {
    pointer = .allocate(capacity: 1)
    pointer.initialize(to: zmq_msg_t())
    let code = zmq_msg_init_data(
      pointer, frame.memory + range.lowerBound, range.count,
      { _, hint in
        if let hint { Unmanaged<FrameMemory>.fromOpaque(hint).release() }
      }, Unmanaged.passRetained(frame).toOpaque())
    precondition(code == 0, "out of memory for a message")
  }

  deinit {
    zmq_msg_close(pointer)
    pointer.deallocate()
  }

  var count: Int { zmq_msg_size(pointer) }
  /// The text of the key that its connection was authenticated with; nil where traffic is plain.
  var userText: String? { zmq_msg_gets(pointer, "User-Id").map { String(cString: $0) } }
  /// The descriptor of the connection that it came over; nil for one inside the process.
  var sourceDescriptor: Int32? {
    let descriptor = zmq_msg_get(pointer, ZMQ_SRCFD)
    return descriptor < 0 ? nil : descriptor
  }
  var hasMore: Bool { zmq_msg_more(pointer) != 0 }

  func withBytes<Value, Failure: Error>(_ body: (UnsafeRawBufferPointer) throws(Failure) -> Value) throws(Failure)
    -> Value
  {
    try body(UnsafeRawBufferPointer(start: zmq_msg_data(pointer), count: count))
  }
  var mutableBytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: zmq_msg_data(pointer), count: count)
  }
  private func fill(_ bytes: UnsafeRawBufferPointer) {
    if !bytes.isEmpty { mutableBytes.copyMemory(from: bytes) }
  }
  var bytes: [UInt8] { withBytes { [UInt8]($0) } }
  var firstByte: UInt8? { withBytes { $0.first } }
}
