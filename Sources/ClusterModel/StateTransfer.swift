/// What of one tensor's state is meant.
public enum StatePart: UInt32, Hashable, Sendable, CaseIterable {
  case parameters = 0
  case firstMoment = 1
  case secondMoment = 2
}

/// Tensors of a state that a worker has, or that it needs; by their place in the model's canonical order, in ascending
/// ranges.
public struct StateHolding: Hashable, Sendable {
  public var worker: WorkerID
  /// Tensors whose parameters are meant.
  public var parameters: [Range<Int>]
  /// Tensors whose two moments are meant.
  public var moments: [Range<Int>]
  public init(worker: WorkerID, parameters: [Range<Int>], moments: [Range<Int>]) {
    self.worker = worker
    self.parameters = parameters
    self.moments = moments
  }
}

/// Who gives which tensor of a state to whom: everybody computes the same answer, so nobody has to ask.
public enum StateTransfer {
  public struct Piece: Hashable, Sendable {
    public var tensor: Int
    public var part: StatePart
    public var from: WorkerID
    public var to: WorkerID
    public init(tensor: Int, part: StatePart, from: WorkerID, to: WorkerID) {
      self.tensor = tensor
      self.part = part
      self.from = from
      self.to = to
    }
  }

  /// Every needed tensor once, from its new owner itself where that has it, else from one of the holders in turn, so
  /// that they share the work.
  /// - Returns: nil when something is needed that nobody holds.
  public static func pieces(held: [StateHolding], needed: [StateHolding]) -> [Piece]? {
    let parameterHolders = holders(held) { $0.parameters }
    let momentHolders = holders(held) { $0.moments }
    var pieces: [Piece] = []
    func add(_ tensor: Int, _ parts: [StatePart], _ holders: [WorkerID], to worker: WorkerID) -> Bool {
      guard !holders.isEmpty else { return false }
      let from = holders.contains(worker) ? worker : holders[(tensor + Int(worker.number)) % holders.count]
      for part in parts { pieces.append(Piece(tensor: tensor, part: part, from: from, to: worker)) }
      return true
    }
    for need in needed {
      for tensor in need.parameters.joined() {
        guard add(tensor, [.parameters], parameterHolders[tensor] ?? [], to: need.worker) else { return nil }
      }
      for tensor in need.moments.joined() {
        guard add(tensor, [.firstMoment, .secondMoment], momentHolders[tensor] ?? [], to: need.worker) else {
          return nil
        }
      }
    }
    return pieces
  }

  private static func holders(_ held: [StateHolding], _ ranges: (StateHolding) -> [Range<Int>]) -> [Int: [WorkerID]] {
    var result: [Int: [WorkerID]] = [:]
    for holding in held.sorted(by: { $0.worker < $1.worker }) {
      for tensor in ranges(holding).joined() { result[tensor, default: []].append(holding.worker) }
    }
    return result
  }

  /// Ascending, joined where they meet.
  public static func union(_ ranges: [Range<Int>]) -> [Range<Int>] {
    var result: [Range<Int>] = []
    for range in ranges.sorted(by: { ($0.lowerBound, $0.upperBound) < ($1.lowerBound, $1.upperBound) })
    where !range.isEmpty {
      if let last = result.last, range.lowerBound <= last.upperBound {
        result[result.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
      } else {
        result.append(range)
      }
    }
    return result
  }
}
