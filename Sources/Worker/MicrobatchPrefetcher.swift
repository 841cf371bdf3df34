import ClusterModel
import Foundation
import TrainingData
import TransfusionModel

/// Builds the microbatches that a stage will ask for, in that order, on a thread of its own.
///
/// Which microbatches come next is known forever: those of the replica's range, step after step. So the
/// thread runs ahead by a few and the compute thread almost never waits.
final class MicrobatchPrefetcher: Sendable {
  struct Item: Sendable {
    var step: Step
    var microbatch: Int
    var content: Result<Microbatch, DataError>
  }
  private let queue: BlockingQueue<Item>

  /// - Parameter range: the replica's microbatches of every step.
  init(source: MicrobatchSource, from step: Step, range: Range<Int>, parts: MicrobatchParts, ahead: Int = 8) {
    let queue = BlockingQueue<Item>(capacity: ahead)
    self.queue = queue
    BackgroundThread.start("data") {
      var step = step
      while true {
        for index in range {
          let content: Result<Microbatch, DataError>
          do throws(DataError) {
            content = .success(try source.microbatch(step: step, index: index, parts: parts))
          } catch {
            content = .failure(error)
          }
          guard queue.push(Item(step: step, microbatch: index, content: content)) else { return }
        }
        step += 1
      }
    }
  }

  /// The next microbatch, which the caller knows to be (step, microbatch).
  func next(step: Step, microbatch: Int) throws(DataError) -> Microbatch? {
    guard let item = queue.pop() else { return nil }
    precondition(
      item.step == step && item.microbatch == microbatch,
      "the schedule asked for microbatch \(microbatch) of step \(step), the data thread made \(item.microbatch) of \(item.step)"
    )
    return try item.content.get()
  }

  func stop() { queue.close(discarding: true) }
}
