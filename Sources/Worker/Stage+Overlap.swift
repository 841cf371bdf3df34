import Compute
import TransfusionModel

extension Stage {
  /// `backward` that says which of the stage's tensors have their final gradient: here all at the end.
  /// - Parameter accumulate: false overwrites what the gradient held.
  func backward(
    slot: Int, gradient: Tensor, denominators: Denominators, accumulate: Bool, finished: (Range<Int>) -> Void
  ) {
    if !accumulate { device.fill(gradient, with: 0) }
    backward(slot: slot, gradient: gradient, denominators: denominators)
    finished(parameters.indices)
  }
}
