import CZeroMQ
import Transport

/// A stranger with a socket of its own, who says what it likes.
final class RawPeer {
  private let context: UnsafeMutableRawPointer
  private let socket: UnsafeMutableRawPointer
  struct Failure: Error { let operation: String }

  init(_ endpoint: String, keys: ClientKeys? = nil, reconnects: Bool = true) throws {
    guard let context = zmq_ctx_new(), let socket = zmq_socket(context, ZMQ_DEALER) else {
      throw Failure(operation: "socket")
    }
    self.context = context
    self.socket = socket
    var milliseconds: Int32 = 5_000
    zmq_setsockopt(socket, ZMQ_SNDTIMEO, &milliseconds, 4)
    zmq_setsockopt(socket, ZMQ_LINGER, &milliseconds, 4)
    if let keys {
      for (option, text) in [
        (ZMQ_CURVE_SERVERKEY, keys.server.text), (ZMQ_CURVE_PUBLICKEY, keys.pair.publicKey.text),
        (ZMQ_CURVE_SECRETKEY, keys.pair.secretText),
      ] {
        guard zmq_setsockopt(socket, option, text, text.utf8.count) == 0 else { throw Failure(operation: "keys") }
      }
    }
    if !reconnects {
      var never: Int32 = -1
      zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &never, 4)
    }
    guard zmq_connect(socket, endpoint) == 0 else { throw Failure(operation: "connect") }
  }
  deinit {
    zmq_close(socket)
    zmq_ctx_term(context)
  }
  func send(_ parts: [[UInt8]]) throws {
    for (index, part) in parts.enumerated() {
      let flags = index + 1 < parts.count ? ZMQ_SNDMORE : 0
      guard part.withUnsafeBytes({ zmq_send(socket, $0.baseAddress, $0.count, flags) }) >= 0 else {
        throw Failure(operation: "send")
      }
    }
  }
}

struct Noise {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
  mutating func bytes(_ count: Int) -> [UInt8] {
    var result = [UInt8](repeating: 0, count: count)
    result.withUnsafeMutableBytes { buffer in
      var offset = 0
      while offset < count {
        withUnsafeBytes(of: next()) { word in
          let size = min(8, count - offset)
          UnsafeMutableRawBufferPointer(rebasing: buffer[offset..<offset + size])
            .copyBytes(from: word.prefix(size))
        }
        offset += 8
      }
    }
    return result
  }
}
