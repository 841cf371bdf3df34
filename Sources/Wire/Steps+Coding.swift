import ClusterModel

extension MicrobatchLoss {
  var proto: Transfusion_Wire_MicrobatchLoss {
    .with {
      $0.microbatch = microbatch
      $0.languageModelSum = languageModelSum
      $0.targetTokens = targetTokens
      $0.diffusionSum = diffusionSum
      $0.images = images
    }
  }
  init(_ proto: Transfusion_Wire_MicrobatchLoss) throws(WireError) {
    self.init(
      microbatch: try WireLimits.number(proto.microbatch, "losses.microbatch", atMost: WireLimits.index),
      languageModelSum: try WireLimits.trainingSum(proto.languageModelSum, "losses.languageModelSum"),
      targetTokens: try WireLimits.number(proto.targetTokens, "losses.targetTokens", atMost: WireLimits.step),
      diffusionSum: try WireLimits.trainingSum(proto.diffusionSum, "losses.diffusionSum"),
      images: try WireLimits.number(proto.images, "losses.images", atMost: WireLimits.step))
  }
  fileprivate static func list(
    _ protos: [Transfusion_Wire_MicrobatchLoss], _ field: String
  ) throws(WireError) -> [MicrobatchLoss] {
    try WireLimits.count(protos.count, field, atMost: WireLimits.losses)
    return try protos.map { proto throws(WireError) in try MicrobatchLoss(proto) }
  }
}

extension TensorNorm {
  var proto: Transfusion_Wire_TensorNorm {
    .with {
      $0.tensor = tensor
      $0.sumOfSquares = sumOfSquares
    }
  }
  init(_ proto: Transfusion_Wire_TensorNorm) throws(WireError) {
    self.init(
      tensor: try WireLimits.number(proto.tensor, "norms.tensor", atMost: WireLimits.index),
      sumOfSquares: try WireLimits.trainingSum(proto.sumOfSquares, "norms.sumOfSquares"))
  }
}

extension Reduced {
  var proto: Transfusion_Wire_Reduced {
    .with {
      $0.step = step
      $0.losses = losses.map(\.proto)
      $0.norms = norms.map(\.proto)
    }
  }
  init(_ proto: Transfusion_Wire_Reduced) throws(WireError) {
    try WireLimits.count(proto.norms.count, "reduced.norms", atMost: WireLimits.tensors)
    self.init(
      step: try WireLimits.step(proto.step, "reduced.step"),
      losses: try MicrobatchLoss.list(proto.losses, "reduced.losses"),
      norms: try proto.norms.map { norm throws(WireError) in try TensorNorm(norm) })
  }
}

extension Update {
  var proto: Transfusion_Wire_Update {
    .with {
      $0.step = step
      $0.gradientSumOfSquares = gradientSumOfSquares
      $0.checkpoint = checkpoint
      $0.copy = copy
    }
  }
  init(_ proto: Transfusion_Wire_Update) throws(WireError) {
    self.init(
      step: try WireLimits.step(proto.step, "update.step"),
      gradientSumOfSquares: try WireLimits.trainingSum(proto.gradientSumOfSquares, "update.gradientSumOfSquares"),
      checkpoint: proto.checkpoint, copy: proto.copy)
  }
}

extension PhaseSeconds {
  var proto: Transfusion_Wire_PhaseSeconds {
    .with {
      $0.forward = forward
      $0.backward = backward
      $0.receive = receive
      $0.reduce = reduce
      $0.update = update
      $0.data = data
      $0.checkpoint = checkpoint
    }
  }
  init(_ proto: Transfusion_Wire_PhaseSeconds) throws(WireError) {
    self.init()
    forward = try WireLimits.measure(proto.forward, "phases.forward")
    backward = try WireLimits.measure(proto.backward, "phases.backward")
    receive = try WireLimits.measure(proto.receive, "phases.receive")
    reduce = try WireLimits.measure(proto.reduce, "phases.reduce")
    update = try WireLimits.measure(proto.update, "phases.update")
    data = try WireLimits.measure(proto.data, "phases.data")
    checkpoint = try WireLimits.measure(proto.checkpoint, "phases.checkpoint")
  }
}

extension Updated {
  var proto: Transfusion_Wire_Updated {
    .with {
      $0.step = step
      $0.phases = phases.proto
      $0.memoryBytes = memoryBytes
    }
  }
  init(_ proto: Transfusion_Wire_Updated) throws(WireError) {
    self.init(
      step: try WireLimits.step(proto.step, "updated.step"), phases: try PhaseSeconds(proto.phases),
      memoryBytes: try WireLimits.number(proto.memoryBytes, "updated.memoryBytes", atMost: WireLimits.count))
  }
}

extension Evaluated {
  var proto: Transfusion_Wire_Evaluated {
    .with {
      $0.step = step
      $0.losses = losses.map(\.proto)
    }
  }
  init(_ proto: Transfusion_Wire_Evaluated) throws(WireError) {
    self.init(
      step: try WireLimits.step(proto.step, "evaluated.step"),
      losses: try MicrobatchLoss.list(proto.losses, "evaluated.losses"))
  }
}

extension CheckpointPart {
  var proto: Transfusion_Wire_CheckpointPart {
    .with {
      $0.step = step
      $0.file = file
      $0.sizeBytes = sizeBytes
      $0.sha256 = sha256
      $0.tensors = tensors.map { tensor in
        .with {
          $0.path = tensor.path
          $0.shape = tensor.shape.map { UInt64(clamping: $0) }
          $0.sha256 = tensor.sha256
        }
      }
    }
  }
  init(_ proto: Transfusion_Wire_CheckpointPart) throws(WireError) {
    try WireLimits.count(proto.tensors.count, "checkpointWritten.tensors", atMost: WireLimits.tensors)
    let file = try WireLimits.name(proto.file, "checkpointWritten.file", atMost: 255)
    // It will be joined to the directory of the checkpoint: a plain name, nothing that leads elsewhere.
    guard !file.utf8.contains(UInt8(ascii: "/")), !file.hasPrefix(".") else {
      throw .outOfRange(field: "checkpointWritten.file", value: file, allowed: "a file name without / or leading .")
    }
    self.init(
      step: try WireLimits.step(proto.step, "checkpointWritten.step"), file: file,
      sizeBytes: try WireLimits.number(proto.sizeBytes, "checkpointWritten.sizeBytes", atMost: WireLimits.count),
      sha256: try WireLimits.sha256(proto.sha256, "checkpointWritten.sha256"),
      tensors: try proto.tensors.map { tensor throws(WireError) in try Tensor(tensor) })
  }
}

extension CheckpointPart.Tensor {
  init(_ proto: Transfusion_Wire_CheckpointTensor) throws(WireError) {
    try WireLimits.count(proto.shape.count, "tensors.shape", atMost: WireLimits.tensorRank)
    var elements: UInt64 = 1
    for extent in proto.shape {
      let (product, overflow) = elements.multipliedReportingOverflow(by: extent)
      guard extent > 0, !overflow, product <= WireLimits.count else {
        throw .outOfRange(
          field: "tensors.shape", value: "\(proto.shape)",
          allowed: "positive extents of at most \(WireLimits.count) elements together")
      }
      elements = product
    }
    self.init(
      path: try WireLimits.name(proto.path, "tensors.path"), shape: proto.shape.map { Int($0) },
      sha256: try WireLimits.sha256(proto.sha256, "tensors.sha256"))
  }
}
