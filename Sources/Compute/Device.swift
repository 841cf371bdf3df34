/// What a model needs of hardware: kernel-sized operations on tensors, and nothing finer.
///
/// Rules for callers, so that the same model code runs on a device with memory and a queue of its own:
/// - tensors are handles; bytes cross by `upload` and `download` only;
/// - an operation may not have finished when the call returns; `download` and `wait` are where results
///   and faults show;
/// - one thread owns a device and makes every call;
/// - operations never allocate in a steady step: outputs are the caller's tensors.
///
/// Rules for implementations: the result of every operation is a function of its operands' values and
/// shapes alone - never of thread count or timing - and nothing is summed in another order.
///
/// Shape letters: T tokens, D width, F SwiGLU width, H heads, G key-value heads, E head size,
/// V vocabulary, M selected rows, I images, P patches of an image, K elements of a patch.
/// "Compute type" is float32 or bfloat16; sums are float32 (or wider) inside every operation.
public protocol Device: AnyObject {
  /// Names kind and instruction set ("cpu/x86-64/avx512-bf16"): part of a run's fingerprint, because
  /// the same bits hold within one value of it.
  var fingerprint: String { get }

  // MARK: Memory
  func allocate(_ type: ElementType, _ shape: Extents) throws(DeviceError) -> Tensor  // zero-filled
  /// As `allocate`, where other processes can read the tensor, if there is such memory: for what is exchanged with them.
  func allocateShared(_ type: ElementType, _ shape: Extents) throws(DeviceError) -> Tensor
  /// A tensor that may lie in the bytes of `memory`, from `byteOffset` (a multiple of the element's size) on: writing
  /// one of several tensors there leaves what they share with it undefined in the others. Takes no memory where devices
  /// have bytes; others give it some of its own.
  func overlay(_ type: ElementType, _ shape: Extents, on memory: Tensor, at byteOffset: Int) -> Tensor
  /// Waits for the tensor's value and says where it lies, if other processes can read it there; else nil.
  func sharedBytes(of tensor: Tensor) throws(DeviceError) -> UnsafeRawBufferPointer?
  /// Copies host bytes of the tensor's own element type.
  func upload(_ bytes: UnsafeRawBufferPointer, to tensor: Tensor)
  /// Waits for the tensor's value and copies it to the host in its own element type.
  func download(_ tensor: Tensor, into bytes: UnsafeMutableRawBufferPointer) throws(DeviceError)
  func wait() throws(DeviceError)
  func fill(_ tensor: Tensor, with value: Float)
  /// Element-wise copy between tensors of equal count; float types convert (to bfloat16: nearest even).
  func copy(_ source: Tensor, to destination: Tensor)
  /// destination += source, both float32, equal count.
  func add(_ source: Tensor, to destination: Tensor)
  /// destination = source + the float32s in `bytes`, which are host memory; both float32, equal counts; destination
  /// may be source. The bytes are used before this returns.
  func add(_ bytes: UnsafeRawBufferPointer, to source: Tensor, into destination: Tensor) throws(DeviceError)
  /// As `upload`, of bytes that a peer sent: many, and not read again soon.
  func store(_ bytes: UnsafeRawBufferPointer, in tensor: Tensor)

  // MARK: Linear algebra
  /// c[M,N] = op(a) op(b), or base + op(a) op(b). op transposes where asked. a and b have one compute type; c is
  /// float32 or bfloat16. `base` is a float32 [M,N] and may be c; with it c is float32.
  func matmul(
    _ a: Tensor, transposed transposeA: Bool, _ b: Tensor, transposed transposeB: Bool, adding base: Tensor?,
    into c: Tensor)
  /// rows[M,N] += bias[N]; bias float32, rows float32 or bfloat16.
  func addBias(_ bias: Tensor, to rows: Tensor)
  /// gradient[N] (float32) += sum over rows of rows[M,N].
  func addBiasGradient(_ rows: Tensor, to gradient: Tensor)

  // MARK: Rows
  /// rows[t] = table[tokens[t]] for tokens[t] >= 0; other rows become zero. table float32 [V,D], tokens int32 [T], rows float32 [T,D].
  func embed(_ tokens: Tensor, table: Tensor, into rows: Tensor)
  /// gradient[tokens[t]] += rows[t] in order of t, for tokens[t] >= 0; all float32.
  func embedBackward(_ tokens: Tensor, _ rows: Tensor, addingTo gradient: Tensor)
  /// destination[m] = source[indices[m]]; float types convert.
  func gatherRows(_ source: Tensor, _ indices: Tensor, into destination: Tensor)
  /// destination[indices[m]] = source[m]; indices are unique; float types convert.
  func scatterRows(_ source: Tensor, _ indices: Tensor, into destination: Tensor)

  // MARK: Transformer
  /// y = x / rms(x) * weight over rows of x[T,D] (float32); inverse[T] keeps 1/rms; y has a compute type.
  func rmsNorm(_ x: Tensor, weight: Tensor, epsilon: Float, into y: Tensor, inverse: Tensor)
  /// dx[T,D] (float32) += the input's gradient; weightGradient[D] += its own. dy has a compute type.
  func rmsNormBackward(
    _ dy: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, addingTo dx: Tensor, weightGradient: Tensor)
  /// Rotates the query and key heads of packed rows qkv[T,(H+2G)E] in place (half-split, Hugging Face):
  /// cosine and sine are [T,E/2] float32, already looked up by position. `inverse` rotates back (the backward pass).
  func rotate(_ qkv: Tensor, heads: Int, keyValueHeads: Int, cosine: Tensor, sine: Tensor, inverse: Bool)
  /// Attention where query t sees exactly keys keyStart[t]..<keyEnd[t] (int32 [T], rows of the same qkv, non-empty).
  /// Scores are scaled by 1/sqrt(E). output[T,HE] has qkv's type; logSumExp[H,T] float32 is kept for the backward pass.
  func attention(
    _ qkv: Tensor, heads: Int, keyValueHeads: Int, keyStart: Tensor, keyEnd: Tensor, into output: Tensor,
    logSumExp: Tensor)
  /// dqkv[T,(H+2G)E] (qkv's type) is overwritten.
  func attentionBackward(
    _ dOutput: Tensor, qkv: Tensor, output: Tensor, logSumExp: Tensor, heads: Int, keyValueHeads: Int, keyStart: Tensor,
    keyEnd: Tensor, into dqkv: Tensor)
  /// output[T,F] = silu(gate) * up of packed rows gateUp[T,2F] = [gate | up].
  func swiGLU(_ gateUp: Tensor, into output: Tensor)
  /// dGateUp[T,2F] overwritten; may be the same tensor as gateUp. output[T,F] gets swiGLU's result again, so that a
  /// backward pass need not keep it; may be the same tensor as dOutput.
  func swiGLUBackward(_ dOutput: Tensor, gateUp: Tensor, into dGateUp: Tensor, output: Tensor)
  func silu(_ x: Tensor, into y: Tensor)
  func siluBackward(_ dy: Tensor, x: Tensor, into dx: Tensor)

  // MARK: Diffusion
  /// noisy = signal[i] * clean + sigma[i] * noise for the rows of image i; clean, noise float32 [I*P,K]; signal, sigma float32 [I].
  func addNoise(_ clean: Tensor, _ noise: Tensor, signal: Tensor, sigma: Tensor, into noisy: Tensor)
  /// patches[I*P,D] += time[I,D] of the row's image; float32.
  func addTime(_ time: Tensor, to patches: Tensor)
  /// dTime[I,D] = sum over the image's rows of dPatches[I*P,D], in order; float32 in, float32 or bfloat16 out.
  func addTimeBackward(_ dPatches: Tensor, into dTime: Tensor)

  // MARK: Losses
  /// Head and cross-entropy in one, in chunks of rows, never all logits at once.
  /// hidden[M,D] and weight[V,D] have one compute type; targets int32 [M]; losses float32 [M] gets -log p(target).
  /// With `gradient`: dHidden[M,D] (float32) and weightGradient[V,D] (float32, = or +=) of scale * sum(losses).
  func headLoss(_ hidden: Tensor, weight: Tensor, targets: Tensor, losses: Tensor, gradient: HeadGradient?)
  /// losses[I] = mean over the image's P*K elements of (prediction - target)^2; all float32.
  /// With `gradient` [I*P,K] (float32): of scale * sum(losses).
  func squaredError(_ prediction: Tensor, target: Tensor, losses: Tensor, gradient: Tensor?, scale: Float)

  // MARK: Optimizer
  /// result[index] (float64) = sum of squares of a float32 tensor: blocks of 4,096 elements in double, added in order.
  func sumOfSquares(_ tensor: Tensor, into result: Tensor, at index: Int)
  /// One AdamW update of one tensor, all float32, equal counts; `computeCopy` (bfloat16) gets the new value too.
  func adamW(
    _ parameter: Tensor, gradient: Tensor, firstMoment: Tensor, secondMoment: Tensor, computeCopy: Tensor?,
    _ step: AdamWStep)
}

public struct HeadGradient {
  public var scale: Float
  public var dHidden: Tensor
  public var weightGradient: Tensor
  /// Whether the weight's gradient is added to what is there.
  public var adds: Bool
  public init(scale: Float, dHidden: Tensor, weightGradient: Tensor, adds: Bool = true) {
    self.scale = scale
    self.dHidden = dHidden
    self.weightGradient = weightGradient
    self.adds = adds
  }
}

/// The numbers of one AdamW update (Loshchilov and Hutter 2019, as in torch.optim.AdamW):
/// p *= 1 - learningRate * weightDecay; m = beta1 m + (1 - beta1) g; v = beta2 v + (1 - beta2) g^2, with
/// g = gradientScale * gradient; p -= learningRate / correction1 * m / (sqrt(v) / sqrt(correction2) + epsilon),
/// where correction_i = 1 - beta_i^k.
public struct AdamWStep: Sendable, Hashable {
  public var learningRate, beta1, beta2, epsilon, weightDecay, gradientScale, correction1, correction2: Float
  public init(
    learningRate: Float, beta1: Float, beta2: Float, epsilon: Float, weightDecay: Float, gradientScale: Float,
    correction1: Float, correction2: Float
  ) {
    self.learningRate = learningRate
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.weightDecay = weightDecay
    self.gradientScale = gradientScale
    self.correction1 = correction1
    self.correction2 = correction2
  }
}

public enum DeviceError: Error, Equatable, CustomStringConvertible {
  case outOfMemory(requestedBytes: Int, limitBytes: Int)
  /// The processor lacks what the kernels need; `needs` is the sentence for the user.
  case unsupportedProcessor(needs: String)
  case library(operation: String, code: Int32)

  public var description: String {
    switch self {
    case .outOfMemory(let requested, let limit):
      "needs \(requested) bytes more than the memory limit of \(limit) allows; raise --memory-limit, add workers, or set training.recompute: full"
    case .unsupportedProcessor(let needs): needs
    case .library(let operation, let code): "\(operation) failed with code \(code)"
    }
  }
}

extension Device {
  public func store(_ bytes: UnsafeRawBufferPointer, in tensor: Tensor) { upload(bytes, to: tensor) }
  /// For devices that cannot read host memory: through a tensor.
  public func add(_ bytes: UnsafeRawBufferPointer, to source: Tensor, into destination: Tensor) throws(DeviceError) {
    let received = try allocate(.float32, destination.shape)
    upload(bytes, to: received)
    if source.storage !== destination.storage || source.offset != destination.offset { copy(source, to: destination) }
    add(received, to: destination)
  }
  public func upload<Element: BitwiseCopyable>(_ values: [Element], to tensor: Tensor) {
    values.withUnsafeBytes { upload($0, to: tensor) }
  }
  /// The tensor's elements as floats; the tensor is float32.
  public func floats(_ tensor: Tensor) throws(DeviceError) -> [Float] {
    precondition(tensor.type == .float32)
    return try elements(tensor, zero: Float(0))
  }
  /// The tensor's elements as doubles; the tensor is float64.
  public func doubles(_ tensor: Tensor) throws(DeviceError) -> [Double] {
    precondition(tensor.type == .float64)
    return try elements(tensor, zero: Double(0))
  }
  private func elements<Element: BitwiseCopyable>(_ tensor: Tensor, zero: Element) throws(DeviceError) -> [Element] {
    var values = [Element](repeating: zero, count: tensor.count)
    var failure: DeviceError?
    values.withUnsafeMutableBytes { bytes in
      do throws(DeviceError) { try download(tensor, into: bytes) } catch { failure = error }
    }
    if let failure { throw failure }
    return values
  }
}
