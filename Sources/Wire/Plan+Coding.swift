import ClusterModel

extension Plan {
  var proto: Transfusion_Wire_Plan {
    .with {
      $0.stageUnits = stageUnits.map(Transfusion_Wire_Range.init)
      $0.replicaLeaves = replicaLeaves.map(Transfusion_Wire_Range.init)
      $0.places = places.flatMap { $0.map(\.number) }
      $0.spares = spares.map(\.number)
      $0.schedule =
        switch schedule {
        case .gpipe: .gpipe
        case .oneForwardOneBackward: .oneForwardOneBackward
        }
    }
  }

  /// A plan is built only when it is whole: ranges without gaps from 0, every place taken, no worker twice.
  init(_ proto: Transfusion_Wire_Plan) throws(WireError) {
    let stageUnits = try Self.partition(proto.stageUnits, "plan.stageUnits")
    let replicaLeaves = try Self.partition(proto.replicaLeaves, "plan.replicaLeaves")
    try WireLimits.count(proto.places.count, "plan.places", atMost: WireLimits.workers)
    try WireLimits.count(proto.spares.count, "plan.spares", atMost: WireLimits.workers)
    // Both counts are at most WireLimits.ranges, so the product fits.
    guard proto.places.count == stageUnits.count * replicaLeaves.count else {
      throw .outOfRange(
        field: "plan.places", value: "\(proto.places.count) workers",
        allowed: "\(replicaLeaves.count) replicas x \(stageUnits.count) stages")
    }
    var seen: Set<UInt32> = []
    for worker in proto.places + proto.spares where !seen.insert(worker).inserted {
      throw .outOfRange(field: "plan.places", value: "worker \(worker) twice", allowed: "each worker once")
    }
    let schedule: ScheduleKind
    switch proto.schedule {
    case .gpipe: schedule = .gpipe
    case .oneForwardOneBackward: schedule = .oneForwardOneBackward
    case .unspecified: throw .missing(field: "plan.schedule")
    case .UNRECOGNIZED(let value): throw .unknownCase(field: "plan.schedule", value: value)
    }
    let stages = stageUnits.count
    self.init(
      stageUnits: stageUnits, replicaLeaves: replicaLeaves,
      places: replicaLeaves.indices.map { replica in
        proto.places[replica * stages..<(replica + 1) * stages].map { WorkerID($0) }
      },
      spares: proto.spares.map { WorkerID($0) }, schedule: schedule)
  }

  private static func partition(
    _ ranges: [Transfusion_Wire_Range], _ field: String
  ) throws(WireError) -> [Range<Int>] {
    guard !ranges.isEmpty else { throw .missing(field: field) }
    try WireLimits.count(ranges.count, field, atMost: WireLimits.ranges)
    var next: UInt32 = 0
    var result: [Range<Int>] = []
    for range in ranges {
      guard range.lower == next, range.upper > range.lower, range.upper <= WireLimits.index else {
        throw .outOfRange(
          field: field, value: "\(range.lower)..<\(range.upper)",
          allowed: "ranges that are not empty and follow each other from 0 to at most \(WireLimits.index)")
      }
      result.append(Int(range.lower)..<Int(range.upper))
      next = range.upper
    }
    return result
  }
}

extension Transfusion_Wire_Range {
  init(_ range: Range<Int>) {
    self.init()
    lower = UInt32(clamping: range.lowerBound)
    upper = UInt32(clamping: range.upperBound)
  }
}
