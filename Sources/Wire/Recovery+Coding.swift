import ClusterModel

extension HeldState {
  var proto: Transfusion_Wire_HeldState {
    .with {
      $0.step = step
      $0.parameters = parameters.map(Transfusion_Wire_Range.init)
      $0.moments = moments.map(Transfusion_Wire_Range.init)
    }
  }
  init(_ proto: Transfusion_Wire_HeldState) throws(WireError) {
    self.init(
      step: try WireLimits.step(proto.step, "standing.step"),
      parameters: try tensorRanges(proto.parameters, "standing.parameters"),
      moments: try tensorRanges(proto.moments, "standing.moments"))
  }
}

extension Standing {
  var proto: Transfusion_Wire_Standing {
    .with {
      if let live { $0.live = live.proto }
      $0.hasSums_p = hasSums
      $0.copies = copies.map(\.proto)
      $0.generation = generation.number
    }
  }
  init(_ proto: Transfusion_Wire_Standing) throws(WireError) {
    try WireLimits.count(proto.copies.count, "standing.copies", atMost: WireLimits.copies)
    self.init(
      live: proto.hasLive ? try HeldState(proto.live) : nil, hasSums: proto.hasSums_p,
      copies: try proto.copies.map { copy throws(WireError) in try HeldState(copy) },
      generation: Generation(try WireLimits.number(proto.generation, "standing.generation", atMost: WireLimits.count)))
  }
}

extension StateOrigin {
  var proto: Transfusion_Wire_StateOrigin {
    switch self {
    case .seed: .seed
    case .checkpoint: .checkpoint
    case .members: .members
    }
  }
  var holders: [Transfusion_Wire_Holder] {
    guard case .members(let holders) = self else { return [] }
    return holders.map { holder in
      .with {
        $0.worker = holder.worker.number
        $0.parameters = holder.parameters.map(Transfusion_Wire_Range.init)
        $0.moments = holder.moments.map(Transfusion_Wire_Range.init)
      }
    }
  }
  init(_ proto: Transfusion_Wire_StateOrigin, _ holders: [Transfusion_Wire_Holder]) throws(WireError) {
    switch proto {
    case .seed: self = .seed
    case .checkpoint: self = .checkpoint
    case .members:
      try WireLimits.count(holders.count, "prepare.holders", atMost: WireLimits.workers)
      self = .members(
        try holders.map { holder throws(WireError) in
          StateHolding(
            worker: WorkerID(holder.worker),
            parameters: try tensorRanges(holder.parameters, "prepare.holders.parameters"),
            moments: try tensorRanges(holder.moments, "prepare.holders.moments"))
        })
    case .unspecified: throw .missing(field: "prepare.origin")
    case .UNRECOGNIZED(let value): throw .unknownCase(field: "prepare.origin", value: value)
    }
  }
}

extension CoordinatorHeartbeat {
  var proto: Transfusion_Wire_CoordinatorHeartbeat {
    .with {
      $0.awaitedOrder = awaitedOrder
      if let awaitedPart { $0.awaitedPart = awaitedPart }
    }
  }
  init(_ proto: Transfusion_Wire_CoordinatorHeartbeat) throws(WireError) {
    self.init(
      awaitedOrder: try WireLimits.number(proto.awaitedOrder, "heartbeat.awaitedOrder", atMost: WireLimits.count),
      awaitedPart: proto.hasAwaitedPart ? try WireLimits.step(proto.awaitedPart, "heartbeat.awaitedPart") : nil)
  }
}

/// Ascending, not empty, not overlapping: whoever adds them up counts nothing twice.
private func tensorRanges(_ protos: [Transfusion_Wire_Range], _ field: String) throws(WireError) -> [Range<Int>] {
  try WireLimits.count(protos.count, field, atMost: WireLimits.tensors)
  var ranges: [Range<Int>] = []
  for proto in protos {
    guard proto.lower < proto.upper, proto.lower >= ranges.last?.upperBound ?? 0, proto.upper <= WireLimits.tensors
    else {
      throw .outOfRange(field: field, value: "\(proto.lower) to \(proto.upper)", allowed: "ascending ranges of tensors")
    }
    ranges.append(Int(proto.lower)..<Int(proto.upper))
  }
  return ranges
}

extension Transfusion_Wire_SampleRange {
  init(_ range: Range<UInt64>) {
    self.init()
    first = range.lowerBound
    next = range.upperBound
  }
  static func checked(_ protos: [Self]) throws(WireError) -> [Range<UInt64>] {
    try WireLimits.count(protos.count, "prepare.skipped", atMost: WireLimits.ranges)
    var ranges: [Range<UInt64>] = []
    for proto in protos {
      let next = try WireLimits.number(proto.next, "prepare.skipped", atMost: WireLimits.count)
      guard proto.first < next, proto.first >= ranges.last?.upperBound ?? 0 else {
        throw .outOfRange(
          field: "prepare.skipped", value: "\(proto.first) to \(proto.next)", allowed: "ascending ranges")
      }
      ranges.append(proto.first..<next)
    }
    return ranges
  }
}
