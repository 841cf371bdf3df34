import Compute

/// The moments of the tensors that this process owns, and their updates.
///
/// Owned by the device's thread. Which tensors those are is the caller's choice: every update is of one whole
/// tensor and depends on nothing else.
public final class AdamW {
  public let configuration: AdamWConfiguration
  private let device: any Device
  private var moments: [Int: (first: Tensor, second: Tensor)] = [:]

  /// Zeroed moments.
  /// - Parameter shapes: of the owned tensors, by their index in the model.
  /// - Throws: `DeviceError.outOfMemory`.
  public init(_ configuration: AdamWConfiguration, shapes: [Int: [Int]], device: any Device) throws(DeviceError) {
    self.configuration = configuration
    self.device = device
    for (index, shape) in shapes.sorted(by: { $0.key < $1.key }) {
      moments[index] = (try device.allocate(.float32, shape), try device.allocate(.float32, shape))
    }
  }

  /// Indices of the owned tensors, ascending.
  public var tensorIndices: [Int] { moments.keys.sorted() }

  /// First and second moment of an owned tensor, for reading and for restoring by upload.
  public func moments(ofTensor index: Int) -> (first: Tensor, second: Tensor) {
    guard let found = moments[index] else { preconditionFailure("the moments of tensor \(index) are owned elsewhere") }
    return found
  }

  /// Updates one owned tensor, its moments and its compute copy.
  /// - Parameters:
  ///   - step: counted from 0.
  ///   - decays: whether it is one of the tensors that decay.
  public func update(
    tensor index: Int, parameter: Tensor, gradient: Tensor, computeCopy: Tensor?, step: UInt64, learningRate: Double,
    gradientScale: Float, decays: Bool
  ) {
    let (first, second) = moments(ofTensor: index)
    device.adamW(
      parameter, gradient: gradient, firstMoment: first, secondMoment: second, computeCopy: computeCopy,
      configuration.update(step: step, learningRate: learningRate, gradientScale: gradientScale, decays: decays))
  }
}
