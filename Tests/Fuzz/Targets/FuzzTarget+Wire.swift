import ClusterModel
import Foundation
import Transport
import Wire

/// Bytes from the network: everything that a peer who is not trusted can send.
extension FuzzTarget {
  static let wire = [frameHeader, segmentOffer, bundle, envelope, endpoint]

  private static let checkout = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().deletingLastPathComponent()

  private static func bytes(_ count: Int, _ write: (UnsafeMutableRawBufferPointer) -> Void) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    bytes.withUnsafeMutableBytes(write)
    return bytes
  }

  // MARK: Data plane

  /// Both as it is and with a checksum that is right: else the rest of the header would hardly ever be looked at.
  private static let frameHeader = FuzzTarget(
    "frame-header", "FrameHeader(reading:), the 88 bytes before every tensor", shape: .bytes, sizeLimit: 128,
    heapLimitBytes: 1 << 16, share: 330, lookEvery: 8,
    examples: { _ in
      FrameHeader.Purpose.allCases.map { purpose in
        let header = FrameHeader(
          purpose: purpose, element: .float32, charged: purpose == .data, run: RunTag(RunID("r")),
          generation: Generation(3), sender: WorkerID(2),
          key: FrameKey(kind: .activation, step: 7, microbatch: 1, stage: 1, part: 4), totalBytes: 4096,
          chunkOffset: 1024, chunkBytes: 512, payloadChecksum: 9)
        let bytes = bytes(FrameHeader.sizeBytes) { header.write(into: $0, checksum: FrameChecksum.of) }
        return ("\(purpose)", bytes)
      }
    }
  ) { _ in
    return { input in
      _ = try outcome {
        _ = try input.withUnsafeBytes { bytes throws(WireError) in
          try FrameHeader(reading: bytes, checksum: FrameChecksum.of)
        }
      }
      return try outcome {
        var stored: UInt32 = 0
        if input.count >= FrameHeader.sizeBytes {
          for i in (84..<88).reversed() { stored = stored << 8 | UInt32(input[i]) }
        }
        let header = try input.withUnsafeBytes { bytes throws(WireError) in
          try FrameHeader(reading: bytes, checksum: { _ in stored })
        }
        let written = bytes(FrameHeader.sizeBytes) { header.write(into: $0, checksum: { _ in stored }) }
        try promise(written == input, "a header that was read is written otherwise")
      }
    }
  }

  private static let segmentOffer = FuzzTarget(
    "segment-offer", "SegmentOffer(reading:), HostIdentity(reading:) and ExtentTable(reading:)", shape: .bytes,
    sizeLimit: 128,
    heapLimitBytes: 1 << 16, share: 140, lookEvery: 8,
    examples: { _ in
      let offer = SegmentOffer(
        number: 1, process: 4711, descriptor: 12, segmentBytes: 1 << 20, tokenHigh: .max, tokenLow: 1)
      let table = ExtentTable(
        (0..<3).map { ExtentTable.Extent(segment: 65_536 + $0, offset: 4_096 * Int($0 + 1), count: 1 << (20 * $0)) })
      return [
        ("offer", bytes(SegmentOffer.sizeBytes) { offer.write(into: $0) }),
        ("extents", bytes(ExtentTable.sizeBytes(3)) { table.write(into: $0) }),
        ("identity", bytes(HostIdentity.sizeBytes) { HostIdentity(high: 5, low: .max).write(into: $0) }),
      ]
    }
  ) { _ in
    return { input in
      if input.count == HostIdentity.sizeBytes {
        return try outcome {
          let identity = try input.withUnsafeBytes { raw throws(WireError) in try HostIdentity(reading: raw) }
          try promise(bytes(16) { identity.write(into: $0) } == input, "an identity that was read is written otherwise")
        }
      }
      if input.count % ExtentTable.extentBytes == ExtentTable.headBytes {
        return try outcome {
          let table = try input.withUnsafeBytes { raw throws(WireError) in try ExtentTable(reading: raw) }
          let written = bytes(ExtentTable.sizeBytes(table.extents.count)) { table.write(into: $0) }
          try promise(written == input, "a table that was read is written otherwise")
        }
      }
      return try outcome {
        let offer = try input.withUnsafeBytes { raw throws(WireError) in try SegmentOffer(reading: raw) }
        let written = bytes(SegmentOffer.sizeBytes) { offer.write(into: $0) }
        try promise(written == input, "an offer that was read is written otherwise")
      }
    }
  }

  // MARK: Control plane

  private static let bundle = FuzzTarget(
    "bundle", "Bundle(reading:) and SeatList(reading:), between coordinator and relays", shape: .bytes, sizeLimit: 512,
    heapLimitBytes: 1 << 16, share: 60, lookEvery: 8,
    examples: { _ in
      var bundle = Bundle.Builder()
      bundle.append([8, 1, 2], from: 1)
      bundle.appendGone(70_000)
      bundle.append([UInt8](repeating: 7, count: 40), from: .max)
      return [("bundle", bundle.bytes), ("seats", SeatList([1, 2, 65_536, .max]).bytes)]
    }
  ) { _ in
    return { input in
      _ = try outcome {
        let list = try SeatList(reading: input)
        try promise(list.bytes == input, "a list that was read is written otherwise")
      }
      return try outcome {
        let bundle = try Bundle(reading: input)
        var written = Bundle.Builder()
        for entry in bundle.entries { written.append(bundle.bytes[entry.envelope], from: entry.seat) }
        try promise(written.bytes == input, "a bundle that was read is written otherwise")
      }
    }
  }

  private static let schema: ProtobufSchema = {
    let file = checkout.appending(path: "Sources/Wire/Protos/control.proto")
    return ProtobufSchema(text: (try? String(contentsOf: file, encoding: .utf8)) ?? "")
  }()

  private static let envelope = FuzzTarget(
    "envelope", "Envelope(decoding:), every control message", shape: .protobuf,
    dictionary: [
      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "worker-0001.h5", "../worker.h5",
      "/etc/passwd",
      "tcp://127.0.0.1:1", "\u{1B}[2J",
    ], sizeLimit: 1 << 15, heapLimitBytes: 8 << 20, share: 190, lookEvery: 4,
    generate: { random in schema.make("Envelope", &random).encoded },
    examples: { _ in
      let kinds = (schema.messages["Envelope"] ?? []).filter(\.isInOneof)
      guard kinds.count > 15 else { throw BrokenPromise("control.proto was not understood") }
      return try kinds.map { kind in
        for index in 0..<UInt64(100_000) {
          var random = FuzzRandom(seed: 1, target: kind.name, index: index)
          let bytes = schema.make("Envelope", &random, choosing: kind.number).encoded
          if (try? Envelope(decoding: bytes)) != nil, bytes.count < 700 { return (kind.name, bytes) }
        }
        throw BrokenPromise("no valid example of \(kind.name) was found")
      }
    }
  ) { _ in
    return { input in
      try outcome {
        if let quick = Envelope.quickly(input[...]) {
          // Read thoroughly it is the same, bit for bit: what is not a number is equal to nothing.
          let same = (try? Envelope(thoroughly: input))?.encoded() == quick.encoded()
          try promise(same, "what is read quickly is read otherwise by the library")
        }
        let envelope = try Envelope(decoding: input)
        let written = envelope.encoded()
        do {
          try promise(
            try Envelope(decoding: written).encoded() == written, "a message that was read is written otherwise")
        } catch let error as WireError {
          throw BrokenPromise("a message that was read and written is refused: \(error)")
        }
      }
    }
  }

  private static let endpoint = FuzzTarget(
    "endpoint", "Endpoint(_:), addresses of peers", shape: .text,
    dictionary: ["tcp://", "ipc://", "localhost", "127.0.0.1", "[::1]", "*", ":", "0.0.0.0", "tcp://[fe80::1%eth0]:1"],
    sizeLimit: 1024, heapLimitBytes: 1 << 20, share: 70, lookEvery: 4,
    examples: { _ in
      ["tcp://127.0.0.1:5555", "tcp://[::1]:*", "tcp://host.example.org:65535", "ipc:///tmp/x", "tcp://127.1:0"]
        .enumerated().map { ("\($0.offset)", Array($0.element.utf8)) }
    }
  ) { _ in
    return { input in
      try outcome {
        let endpoint = try Endpoint(String(decoding: input, as: UTF8.self))
        _ = endpoint.staysOnHost
        try promise(try Endpoint(endpoint.description) == endpoint, "\(endpoint) is read otherwise than written")
      }
    }
  }
}
