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
    /// Part `part` (``StatePart``) of the state of tensor `microbatch`, on its way to who needs it in a new generation.
    case state = 6
    /// The same, on its way to the memory of the worker's buddy.
    case stateCopy = 7
    /// The whole sum of the gradient of tensor `part` of the sender's stage, on its way from its owner to its backup.
    case wholeSum = 8
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
