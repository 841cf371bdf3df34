import ClusterModel
import ControlPlane
import Testing

@Suite struct CopyProgressTests {
  @Test func aStateCountsWhenAllHaveTheirWards() {
    var copies = CopyProgress()
    copies.accept(10, from: WorkerID(1), of: 2)
    copies.accept(10, from: WorkerID(1), of: 2)
    #expect(copies.complete == nil)
    copies.accept(10, from: WorkerID(2), of: 2)
    #expect(copies.complete == 10)
  }

  @Test func slowCopiesOverlapAndOldOnesDoNotCount() {
    var copies = CopyProgress()
    copies.accept(10, from: WorkerID(1), of: 2)
    copies.accept(20, from: WorkerID(1), of: 2)
    copies.accept(10, from: WorkerID(2), of: 2)
    #expect(copies.complete == 10)
    copies.accept(20, from: WorkerID(2), of: 2)
    #expect(copies.complete == 20)
    for worker in [1, 2] as [UInt32] { copies.accept(10, from: WorkerID(worker), of: 2) }
    #expect(copies.complete == 20)
  }

  @Test func whatIsSaidOfManyStatesTakesNoMemory() {
    var copies = CopyProgress()
    for step in Step(1)...1_000 { copies.accept(step, from: WorkerID(1), of: 2) }
    // The two newest are awaited still, the others forgotten.
    copies.accept(998, from: WorkerID(2), of: 2)
    #expect(copies.complete == nil)
    copies.accept(999, from: WorkerID(2), of: 2)
    #expect(copies.complete == 999)
  }
}
