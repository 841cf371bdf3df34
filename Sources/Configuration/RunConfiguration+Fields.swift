extension RunConfiguration {
  /// Every key of a configuration file, in the order in which a resolved file lists them.
  public static let fields: [Field] = [
    .integer("run.seed", \.run.seed, in: 0...UInt64(Int64.max), "seed of everything random in the run"),
    .integer(
      "run.steps", \.run.steps, in: 1...1_000_000_000, "optimizer updates; the cosine schedule ends at the last one"),
    .integer(
      "run.stop_after", \.run.stopAfter, in: 0...1_000_000_000, definesResult: false,
      "stop and checkpoint after this step as if asked to, for example at a queue's time limit; 0 runs to the end"),

    .integer("model.layers", \.model.layers, in: 1...1024, "transformer layers"),
    .integer("model.width", \.model.width, in: 2...65536, "width of the residual stream"),
    .integer("model.heads", \.model.heads, in: 1...1024, "query heads; divides the width"),
    .integer(
      "model.key_value_heads", \.model.keyValueHeads, in: 1...1024, "key and value heads; divides the query heads"),
    .integer(
      "model.feed_forward_width", \.model.feedForwardWidth, in: 1...1_048_576, "width of the SwiGLU hidden layer"),
    .integer(
      "model.vocabulary", \.model.vocabulary, in: 6...16_777_216, "token embeddings; at least the tokenizer's pieces"),
    .integer(
      "model.channels", \.model.channels, in: 1...1024, "channels of the latent: 3 for pixels, 8 for the paper's VAE"),
    .integer("model.latent_size", \.model.latentSize, in: 1...4096, "height and width of the latent"),
    .integer("model.patch", \.model.patch, in: 1...256, "height and width of a patch; divides the latent's"),
    .integer("model.time_channels", \.model.timeChannels, in: 2...65536, "channels of the timestep sinusoid; even"),
    .number("model.rope_theta", \.model.ropeTheta, in: 1...1e9, "base of the rotary embedding"),
    .single("model.norm_epsilon", \.model.normEpsilon, in: 0...0.1, "epsilon of RMSNorm"),
    .single(
      "model.initial_deviation", \.model.initialDeviation, in: 0...1, "standard deviation of the initial weights"),
    .number(
      "model.diffusion_weight", \.model.diffusionWeight, in: 0...1e6,
      "weight of the diffusion loss beside the language-model loss"),

    .choice(
      "training.precision", \.training.precision, "what matrices are multiplied in; sums and weights are float32"),
    .choice(
      "training.recompute", \.training.recompute, definesResult: false,
      "activations that the backward pass makes again: less memory, a tenth (selective) or a quarter (full) more time"),

    .text(
      "data.directory", \.data.directory, definesResult: false, "documents made by `transfusion data prepare`"),
    .integer("data.sequence_length", \.data.sequenceLength, in: 8...1_048_576, "tokens and patches of one sequence"),
    .number(
      "data.image_share", \.data.imageShare, in: 0...1, "share of sequence elements from image-caption pairs"),
    .number("data.caption_first", \.data.captionFirst, in: 0...1, "share of pairs with the caption before the image"),
    .number("data.caption_dropout", \.data.captionDropout, in: 0...1, "share of pairs that lose their caption"),
    .flag("data.limit_noise", \.data.limitNoise, "noise levels of at most 500 in image-first pairs"),

    .integer("batch.microbatches", \.batch.microbatches, in: 1...1_048_576, "microbatches of one step"),
    .integer(
      "batch.leaves", \.batch.leaves, in: 1...65536,
      "leaves of the gradient sum: the most replicas that can ever help; divides the microbatches"),
    .integer(
      "batch.sequences_per_microbatch", \.batch.sequencesPerMicrobatch, in: 1...65536, "sequences of one microbatch"),

    .number("optimizer.peak_learning_rate", \.optimizer.peakLearningRate, in: 0...10, "after the warm-up"),
    .number("optimizer.final_learning_rate", \.optimizer.finalLearningRate, in: 0...10, "at the last step"),
    .integer("optimizer.warmup_steps", \.optimizer.warmupSteps, in: 0...1_000_000_000, "steps of linear warm-up"),
    .number("optimizer.beta1", \.optimizer.beta1, in: 0...0.999999, "decay of the first moment"),
    .number("optimizer.beta2", \.optimizer.beta2, in: 0...0.999999, "decay of the second moment"),
    .number("optimizer.epsilon", \.optimizer.epsilon, in: 1e-16...1, "AdamW's epsilon"),
    .number("optimizer.weight_decay", \.optimizer.weightDecay, in: 0...10, "decoupled weight decay"),
    .flag(
      "optimizer.decay_norms_and_biases", \.optimizer.decayNormsAndBiases, "decay norm weights and biases as well"),
    .number("optimizer.clip_norm", \.optimizer.clipNorm, in: 1e-12...1e12, "largest norm of the whole gradient"),

    .integer(
      "parallelism.workers", \.parallelism.workers, in: 1...65536, definesResult: false,
      "workers to wait for before the run starts"),
    .integer(
      "parallelism.stages", \.parallelism.stages, in: 0...1024, definesResult: false,
      "pipeline stages; 0 chooses the fewest that fit in memory"),
    .choice(
      "parallelism.schedule", \.parallelism.schedule, definesResult: false, "order of forwards and backwards"),

    .integer(
      "checkpoint.every", \.checkpoint.every, in: 1...1_000_000_000, definesResult: false, "steps between checkpoints"),
    .integer(
      "checkpoint.keep_last", \.checkpoint.keepLast, in: 1...1_000_000, definesResult: false,
      "newest checkpoints that are kept"),
    .integer(
      "checkpoint.keep_every", \.checkpoint.keepEvery, in: 0...1_000_000_000, definesResult: false,
      "checkpoints of steps divisible by this are kept for good; 0 keeps none"),
    .integer(
      "checkpoint.copy_every", \.checkpoint.copyEvery, in: 0...1_000_000_000, definesResult: false,
      "steps between copies of each worker's state into another worker's memory; 0 makes none"),

    .integer(
      "validation.every", \.validation.every, in: 0...1_000_000_000, definesResult: false,
      "steps between validations, besides the first and last state; 0 never validates"),
    .integer(
      "validation.microbatches", \.validation.microbatches, in: 1...65536, definesResult: false,
      "microbatches of one validation"),

    .number(
      "cluster.suspect_seconds", \.cluster.suspectSeconds, in: 0.3...86400, definesResult: false,
      "silence after which a worker is shown as suspected"),
    .number(
      "cluster.dead_seconds", \.cluster.deadSeconds, in: 0.5...86400, definesResult: false,
      "silence after which a worker counts as lost"),
    .number(
      "cluster.stuck_seconds", \.cluster.stuckSeconds, in: 1...864000, definesResult: false,
      "time without progress after which a worker counts as lost although it beats"),

    .integer(
      "faults.loss_spike_window", \.faults.lossSpikeWindow, in: 0...10_000,
      "committed steps with whose losses a new step is compared; the samples of a step whose loss is a spike are "
        + "skipped for good; 0 compares none"
    ).leftOutOfIdentityAtDefault,
    .number(
      "faults.loss_spike_deviations", \.faults.lossSpikeDeviations, in: 1...1e6,
      "a loss is a spike when it is so many deviations above the median of the window"
    ).leftOutOfIdentityAtDefault,
  ]
}
