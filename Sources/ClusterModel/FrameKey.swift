/// Names one tensor on the data plane inside a generation: what it is, not where it lies.
///
/// Sender and receiver compute the same key on their own; a frame whose key nobody waits for is kept until
/// someone does or the generation ends.
public struct FrameKey: Hashable, Sendable, CustomStringConvertible {
  public enum Kind: UInt8, Sendable, CaseIterable {
    /// Output of `stage` for `microbatch`, travelling to the next stage.
    case activation = 1
    /// Gradient with respect to that output, travelling back.
    case activationGradient = 2
    /// Sum over leaf-tree node `microbatch` (an ordinal in the sender's list) of gradient bucket `part`.
    case partialSum = 3
    /// Updated parameters of bucket `part`.
    case parameters = 4
    /// Forward-only activation of a validation microbatch.
    case validationActivation = 5
    /// State handed to a worker that heals.
    case state = 6
  }
  public var kind: Kind
  public var step: Step
  public var microbatch: UInt32
  public var stage: UInt32
  public var part: UInt32

  public init(kind: Kind, step: Step, microbatch: UInt32 = 0, stage: UInt32 = 0, part: UInt32 = 0) {
    self.kind = kind
    self.step = step
    self.microbatch = microbatch
    self.stage = stage
    self.part = part
  }
  public var description: String { "\(kind) step \(step) microbatch \(microbatch) stage \(stage) part \(part)" }
}
