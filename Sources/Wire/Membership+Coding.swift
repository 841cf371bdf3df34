import ClusterModel
import Foundation

extension Hello {
  var proto: Transfusion_Wire_Hello {
    .with {
      $0.protocolVersion = protocolVersion
      if let worker { $0.worker = worker.number }
      $0.host = WireLimits.cut(host, toBytes: WireLimits.nameBytes)
      $0.processID = processID
      $0.threads = threads
      $0.memoryLimitBytes = memoryLimitBytes
      $0.deviceFingerprint = deviceFingerprint
      $0.gigaflopsPerSecond = gigaflopsPerSecond
      $0.dataEndpoint = dataEndpoint
    }
  }
  init(_ proto: Transfusion_Wire_Hello) throws(WireError) {
    guard proto.threads > 0 else {
      throw .outOfRange(field: "hello.threads", value: "0", allowed: "1 to \(WireLimits.threads)")
    }
    self.init(
      protocolVersion: proto.protocolVersion, worker: proto.hasWorker ? WorkerID(proto.worker) : nil,
      host: try WireLimits.name(proto.host, "hello.host"), processID: proto.processID,
      threads: try WireLimits.number(proto.threads, "hello.threads", atMost: WireLimits.threads),
      memoryLimitBytes: try WireLimits.number(
        proto.memoryLimitBytes, "hello.memoryLimitBytes", atMost: WireLimits.count),
      deviceFingerprint: try WireLimits.name(proto.deviceFingerprint, "hello.deviceFingerprint"),
      gigaflopsPerSecond: try WireLimits.measure(proto.gigaflopsPerSecond, "hello.gigaflopsPerSecond"),
      dataEndpoint: try WireLimits.name(proto.dataEndpoint, "hello.dataEndpoint"))
  }
}

extension Welcome {
  var proto: Transfusion_Wire_Welcome {
    .with {
      $0.worker = worker.number
      $0.configuration = configuration
      $0.runDirectory = runDirectory
      $0.tracing = tracing
    }
  }
  init(_ proto: Transfusion_Wire_Welcome) throws(WireError) {
    self.init(
      worker: WorkerID(proto.worker),
      configuration: try WireLimits.text(
        proto.configuration, "welcome.configuration", atMost: WireLimits.configurationBytes),
      runDirectory: try WireLimits.name(proto.runDirectory, "welcome.runDirectory", atMost: 4_096),
      tracing: proto.tracing)
  }
}

extension Prepare {
  var proto: Transfusion_Wire_Prepare {
    .with {
      $0.plan = plan.proto
      $0.peers = peers.map { peer in
        .with {
          $0.worker = peer.worker.number
          $0.dataEndpoint = peer.dataEndpoint
          $0.publicKey = Data(peer.publicKey)
        }
      }
      $0.fromStep = fromStep
      $0.origin = origin.proto
      $0.holders = origin.holders
      if let norm {
        $0.norm = .with {
          $0.gradientSumOfSquares = norm.sumOfSquares
          $0.generation = norm.generation.number
        }
      }
      $0.skipped = skipped.map(Transfusion_Wire_SampleRange.init)
    }
  }
  init(_ proto: Transfusion_Wire_Prepare) throws(WireError) {
    guard proto.hasPlan else { throw .missing(field: "prepare.plan") }
    try WireLimits.count(proto.peers.count, "prepare.peers", atMost: WireLimits.workers)
    var peers: [Peer] = []
    var seen: Set<UInt32> = []
    for peer in proto.peers {
      guard seen.insert(peer.worker).inserted else {
        throw .outOfRange(field: "prepare.peers", value: "worker \(peer.worker) twice", allowed: "each worker once")
      }
      guard peer.publicKey.isEmpty || peer.publicKey.count == Peer.publicKeyBytes else {
        throw .outOfRange(
          field: "prepare.peers.publicKey", value: "\(peer.publicKey.count) bytes",
          allowed: "none or \(Peer.publicKeyBytes)")
      }
      peers.append(
        Peer(
          worker: WorkerID(peer.worker),
          dataEndpoint: try WireLimits.name(peer.dataEndpoint, "prepare.peers.dataEndpoint"),
          publicKey: [UInt8](peer.publicKey)))
    }
    let fromStep = try WireLimits.step(proto.fromStep, "prepare.fromStep")
    var norm: CommittedNorm?
    if proto.hasNorm {
      norm = CommittedNorm(
        step: fromStep,
        sumOfSquares: try WireLimits.measure(proto.norm.gradientSumOfSquares, "prepare.norm.gradientSumOfSquares"),
        generation: Generation(proto.norm.generation))
    }
    self.init(
      plan: try Plan(proto.plan), peers: peers, fromStep: fromStep,
      origin: try StateOrigin(proto.origin, proto.holders),
      norm: norm,
      skipped: try Transfusion_Wire_SampleRange.checked(proto.skipped))
  }
}

extension Ready {
  var proto: Transfusion_Wire_Ready {
    .with {
      $0.step = step
      $0.dataFingerprint = dataFingerprint
      $0.memoryBytes = memoryBytes
    }
  }
  init(_ proto: Transfusion_Wire_Ready) throws(WireError) {
    self.init(
      step: try WireLimits.step(proto.step, "ready.step"),
      dataFingerprint: try WireLimits.text(proto.dataFingerprint, "ready.dataFingerprint"),
      memoryBytes: try WireLimits.number(proto.memoryBytes, "ready.memoryBytes", atMost: WireLimits.count))
  }
}

extension Heartbeat {
  var proto: Transfusion_Wire_Heartbeat {
    .with {
      $0.progress = progress
      $0.step = step
      $0.phase = WireLimits.cut(phase, toBytes: WireLimits.nameBytes)
      $0.microbatchesPerSecond = microbatchesPerSecond
      $0.memoryBytes = memoryBytes
      $0.order = order
    }
  }
  init(_ proto: Transfusion_Wire_Heartbeat) throws(WireError) {
    self.init(
      progress: try WireLimits.number(proto.progress, "heartbeat.progress", atMost: WireLimits.count),
      step: try WireLimits.step(proto.step, "heartbeat.step"),
      phase: try WireLimits.text(proto.phase, "heartbeat.phase"),
      microbatchesPerSecond: try WireLimits.measure(proto.microbatchesPerSecond, "heartbeat.microbatchesPerSecond"),
      memoryBytes: try WireLimits.number(proto.memoryBytes, "heartbeat.memoryBytes", atMost: WireLimits.count),
      order: try WireLimits.number(proto.order, "heartbeat.order", atMost: WireLimits.count))
  }
}

extension Stop {
  var proto: Transfusion_Wire_Stop {
    .with {
      $0.disposition =
        switch disposition {
        case .done: .done
        case .requeue: .requeue
        case .failed: .failed
        }
      $0.reason = WireLimits.cut(reason, toBytes: WireLimits.reasonBytes)
    }
  }
  init(_ proto: Transfusion_Wire_Stop) throws(WireError) {
    let disposition: Disposition
    switch proto.disposition {
    case .done: disposition = .done
    case .requeue: disposition = .requeue
    case .failed: disposition = .failed
    case .unspecified: throw .missing(field: "stop.disposition")
    case .UNRECOGNIZED(let value): throw .unknownCase(field: "stop.disposition", value: value)
    }
    self.init(
      disposition: disposition,
      reason: try WireLimits.text(proto.reason, "stop.reason", atMost: WireLimits.reasonBytes))
  }
}
