import ClusterModel
import Compute
import Testing
import Worker

@Suite struct LeafSumsTests {
  /// Values whose sum depends on the brackets.
  static func leaf(_ index: Int) -> [Float] { [1e8, 1, -1e8, 3.5e-3].map { $0 * Float(1 + index * index) / 3 } }

  static func tree(_ node: Range<Int>) -> [Float] {
    guard let (left, right) = LeafTree.children(of: node) else { return leaf(node.lowerBound) }
    return zip(tree(left), tree(right)).map { Float(Double($0) + Double($1)) }
  }

  @Test(arguments: 1...17) func sumsFollowTheTreeInAnyRangeOfLeaves(_ leaves: Int) throws {
    let device = try CPUDevice(threads: 1)
    for low in 0..<leaves {
      for high in low + 1...leaves {
        let made = try gradientsMade(for: low..<high, of: leaves, on: device)
        // What the planner counts with.
        #expect(made == LeafTree(leaves: leaves).mostSums(in: low..<high), "leaves \(low)..<\(high) of \(leaves)")
      }
    }
  }

  /// A gradient that every forward pass overwrites gives the same sums, and saves one that lasts.
  @Test(arguments: 1...9) func aPassingGradientIsNeverNeededAfterTheNextForwardPass(_ leaves: Int) throws {
    let device = try CPUDevice(threads: 1)
    let passing = try device.allocate(.float32, [4])
    for low in 0..<leaves {
      for high in low + 1...leaves {
        let lasting = try gradientsMade(for: low..<high, of: leaves, on: device)
        let made = try gradientsMade(for: low..<high, of: leaves, passing: passing, on: device)
        #expect(made == lasting - 1, "\(low)..<\(high)")
      }
    }
  }

  /// Sums some leaves, step after step, and checks them.
  /// - Parameter passing: overwritten before each leaf, as a forward pass does.
  /// - Returns: how many gradients that took, besides `passing`.
  private func gradientsMade(
    for range: Range<Int>, of leaves: Int, passing: Tensor? = nil, on device: CPUDevice
  ) throws -> Int {
    var made = 0
    var sums = LeafSums(leaves: leaves, passing: passing) {
      made += 1
      return try device.allocate(.float32, [4])
    }
    for round in 0..<3 {
      for leaf in range {
        if let passing { device.fill(passing, with: .nan) }
        let gradient = try sums.begin(leaf: leaf, isLast: leaf == range.upperBound - 1)
        device.upload(Self.leaf(leaf), to: gradient)
        sums.finish(leaf: leaf, gradient: gradient, on: device)
      }
      #expect(sums.finished.map(\.node) == LeafTree(leaves: leaves).wholeSubtrees(in: range), "round \(round)")
      for part in sums.finished { #expect(try device.floats(part.gradient) == Self.tree(part.node)) }
      sums.reset()
    }
    return made
  }
}

/// The last leaf added in parts, as gradients become final, gives the bits of the whole leaf at once.
@Suite struct LeafSumsInPartsTests {
  @Test(arguments: 1...9) func partsEqualTheWhole(_ leaves: Int) throws {
    let device = try CPUDevice(threads: 1)
    for low in 0..<leaves {
      for high in low + 1...leaves {
        var sums = LeafSums(leaves: leaves) { try device.allocate(.float32, [4]) }
        for round in 0..<2 {
          for leaf in low..<high {
            let gradient = try sums.begin(leaf: leaf, isLast: leaf == high - 1)
            device.upload(LeafSumsTests.leaf(leaf), to: gradient)
            if leaf < high - 1 {
              sums.finish(leaf: leaf, gradient: gradient, on: device)
              continue
            }
            let expected = sums.sums(with: leaf, gradient: gradient)
            #expect(expected.map(\.node) == LeafTree(leaves: leaves).wholeSubtrees(in: low..<high))
            for elements in [3..<4, 1..<3, 0..<1] {
              sums.add(leaf: leaf, gradient: gradient, elements: elements, on: device)
              // What is added is final where the sums will be, whatever is not added yet.
              for part in expected where part.node.contains(leaf) {
                let found = try device.floats(part.gradient)
                #expect(Array(found[elements]) == Array(LeafSumsTests.tree(part.node)[elements]))
              }
            }
            sums.settle(leaf: leaf, gradient: gradient)
            #expect(sums.finished.map(\.node) == expected.map(\.node))
          }
          for part in sums.finished {
            #expect(try device.floats(part.gradient) == LeafSumsTests.tree(part.node), "round \(round)")
          }
          sums.reset()
        }
      }
    }
  }
}

@Suite struct BlockingQueueTests {
  @Test func keepsOrderAndEndsAfterClose() {
    let queue = BlockingQueue<Int>()
    for i in 0..<5 { queue.push(i) }
    queue.close()
    #expect(!queue.push(9))
    var seen: [Int] = []
    while let next = queue.pop() { seen.append(next) }
    #expect(seen == [0, 1, 2, 3, 4])
  }

  @Test(.timeLimit(.minutes(1))) func aFullQueueHoldsTheProducerUntilThereIsRoom() async {
    let queue = BlockingQueue<Int>(capacity: 2)
    let producer = Task.detached {
      for i in 0..<100 where !queue.push(i) { return false }
      queue.close()
      return true
    }
    var next = 0
    while let value = queue.pop() {
      #expect(value == next)
      next += 1
    }
    #expect(next == 100)
    #expect(await producer.value)
  }

  @Test(.timeLimit(.minutes(1))) func closingFreesAWaitingProducer() async {
    let queue = BlockingQueue<Int>(capacity: 1)
    queue.push(1)
    let producer = Task.detached { queue.push(2) }
    queue.close(discarding: true)
    #expect(await producer.value == false)
    #expect(queue.pop() == nil)
  }
}
