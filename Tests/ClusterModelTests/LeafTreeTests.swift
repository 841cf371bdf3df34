import ClusterModel
import Testing

@Suite struct LeafTreeTests {
  @Test func nodesSplitAfterTheLargestPowerOfTwo() throws {
    let five = try #require(LeafTree.children(of: 0..<5))
    #expect(five == (0..<4, 4..<5))
    let eight = try #require(LeafTree.children(of: 0..<8))
    #expect(eight == (0..<4, 4..<8))
    #expect(LeafTree.children(of: 3..<4) == nil)
  }

  /// Whatever the cut into replicas, their whole subtrees are nodes of the one tree and cover each leaf once.
  @Test(arguments: 1...9) func subtreesOfAnyCutCoverTheLeavesOnce(_ leaves: Int) {
    let tree = LeafTree(leaves: leaves)
    for low in 0..<leaves {
      for high in low + 1...leaves {
        let parts = [0..<low, low..<high, high..<leaves].filter { !$0.isEmpty }.flatMap { tree.wholeSubtrees(in: $0) }
        #expect(parts.flatMap(Array.init) == Array(0..<leaves))
        #expect(parts.allSatisfy(tree.contains))
      }
    }
  }

  @Test func neighboursThatAreNotHalvesOfANodeAreNoSiblings() {
    let tree = LeafTree(leaves: 5)
    #expect(tree.areSiblings(0..<1, 1..<2))
    #expect(!tree.areSiblings(1..<2, 2..<3))
    #expect(tree.areSiblings(0..<2, 2..<4))
    #expect(tree.areSiblings(0..<4, 4..<5))
    #expect(!tree.areSiblings(2..<4, 4..<5))
    #expect(!tree.contains(1..<3))
  }

  @Test func stepShapeCutsMicrobatchesIntoContiguousLeaves() {
    let shape = StepShape(microbatches: 8, leaves: 4)
    #expect((0..<4).map(shape.microbatches(ofLeaf:)) == [0..<2, 2..<4, 4..<6, 6..<8])
    #expect(shape.microbatches(ofLeaves: 1..<3) == 2..<6)
  }

  @Test func ranksAreReplicaMajorAndSparesHaveNone() {
    let w = (0..<5).map { WorkerID($0) }
    let plan = Plan(
      stageUnits: [0..<3, 3..<6], replicaLeaves: [0..<2, 2..<4], places: [[w[0], w[1]], [w[2], w[3]]], spares: [w[4]],
      schedule: .gpipe)
    #expect(w.map(plan.rank(of:)) == [0, 1, 2, 3, nil])
    #expect(plan.place(of: w[2]) == Place(replica: 1, stage: 0))
  }
}
