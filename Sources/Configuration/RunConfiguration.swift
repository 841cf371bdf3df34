import ClusterModel
import TransfusionModel

/// Everything that defines a run, as read from YAML: one value per key of ``RunConfiguration/fields``.
public struct RunConfiguration: Hashable, Sendable {
  public var run = Run()
  public var model = ModelConfiguration(
    layers: 4, width: 256, heads: 4, keyValueHeads: 4, feedForwardWidth: 768, vocabulary: 4096, channels: 3,
    latentSize: 32, patch: 4)
  public var training = Training()
  public var data = Data()
  public var batch = Batch()
  public var optimizer = Optimizer()
  public var parallelism = Parallelism()
  public var checkpoint = Checkpoint()
  public var validation = Validation()
  public var cluster = Cluster()
  public var faults = Faults()

  public struct Run: Hashable, Sendable {
    public var seed: UInt64 = 0
    public var steps: UInt64 = 1000
    /// Stop, checkpoint and exit after this step as if asked to; 0 runs to the end.
    public var stopAfter: UInt64 = 0
  }
  public struct Training: Hashable, Sendable {
    public var precision = Precision.bfloat16
    public var recompute = Recompute.nothing
  }
  public struct Data: Hashable, Sendable {
    /// Documents directory made by `transfusion data prepare`.
    public var directory = ""
    public var sequenceLength = 4096
    /// Share of sequence elements that come from image-caption pairs.
    public var imageShare = 0.5
    public var captionFirst = 0.8
    public var captionDropout = 0.1
    public var limitNoise = false
  }
  public struct Batch: Hashable, Sendable {
    public var microbatches = 8
    public var leaves = 4
    public var sequencesPerMicrobatch = 1
  }
  public struct Optimizer: Hashable, Sendable {
    public var peakLearningRate = 3e-4
    public var finalLearningRate = 1.5e-5
    public var warmupSteps: UInt64 = 4000
    public var beta1 = 0.9
    public var beta2 = 0.95
    public var epsilon = 1e-8
    public var weightDecay = 0.1
    public var decayNormsAndBiases = false
    public var clipNorm = 1.0
  }
  public struct Parallelism: Hashable, Sendable {
    /// Workers to wait for before the run starts.
    public var workers = 1
    /// Pipeline stages; 0 lets the planner choose the fewest that fit.
    public var stages = 0
    public var schedule = ScheduleKind.oneForwardOneBackward
  }
  public struct Checkpoint: Hashable, Sendable {
    public var every: UInt64 = 1000
    public var keepLast = 3
    /// Steps divisible by this are kept for good; 0 keeps none.
    public var keepEvery: UInt64 = 0
    /// Steps between copies of the state into other workers' memory; 0 makes none.
    public var copyEvery: UInt64 = 10
  }
  public struct Validation: Hashable, Sendable {
    /// 0 never validates.
    public var every: UInt64 = 0
    public var microbatches = 8
  }
  public struct Cluster: Hashable, Sendable {
    public var suspectSeconds = 1.0
    public var deadSeconds = 2.0
    public var stuckSeconds = 600.0
  }
  public struct Faults: Hashable, Sendable {
    /// Steps whose losses a new one is compared with; 0 compares none.
    public var lossSpikeWindow = 0
    public var lossSpikeDeviations = 8.0
  }

  public init() {}

  public var shape: StepShape { StepShape(microbatches: batch.microbatches, leaves: batch.leaves) }
  /// Sequence elements (tokens and patches) of one step.
  public var elementsPerStep: UInt64 {
    UInt64(batch.microbatches * batch.sequencesPerMicrobatch * data.sequenceLength)
  }
  public var samplesPerStep: UInt64 { UInt64(batch.microbatches * batch.sequencesPerMicrobatch) }
}
