import Checkpoints
import ClusterModel
import ControlPlane
import Dispatch
import Foundation
import Synchronization

/// Writes manifests and applies retention on a thread of its own, one after the other; results come back as
/// events to be drained by the event loop.
///
/// What a resume would see change passes the journal's fence: the manifest of a coordinator that another one has
/// followed while it was being written commits nothing.
package final class BackgroundCommits: Sendable {
  package struct Result: Sendable {
    package var request: CheckpointRequest
    package var outcome: Outcome
    package enum Outcome: Sendable {
      case committed(digest: String, sizeBytes: UInt64)
      case failed(reason: String)
    }
  }
  /// What the loop finds when it drains.
  package enum Report: Sendable {
    case commit(Result)
    case retained(removed: [Step])
    case retentionFailed(reason: String)
  }

  private let store: CheckpointStore
  private let journal: Journal
  private let context: @Sendable (CheckpointRequest) -> CheckpointContext
  private let wake: @Sendable () -> Void
  private let queue = DispatchQueue(label: "manifest")
  private let reports = Mutex<[Report]>([])
  /// Steps that this process committed and so need not be read again by retention.
  private let verified = Mutex<Set<Step>>([])

  package init(
    store: CheckpointStore, journal: Journal, wake: @escaping @Sendable () -> Void,
    context: @escaping @Sendable (CheckpointRequest) -> CheckpointContext
  ) {
    self.store = store
    self.journal = journal
    self.wake = wake
    self.context = context
  }

  package func commit(_ request: CheckpointRequest) {
    queue.async { [self] in
      let parts = request.parts.map { part in
        PartRecord(
          step: part.step, file: part.file, sizeBytes: part.sizeBytes, sha256: part.sha256,
          tensors: part.tensors.map { .init(path: $0.path, shape: $0.shape, sha256: $0.sha256) })
      }
      let outcome: Result.Outcome
      do throws(CheckpointError) {
        let manifest = try store.commit(
          step: request.step, parts: parts, context: context(request), fence: fence)
        _ = verified.withLock { $0.insert(request.step) }
        outcome = .committed(digest: manifest.digest, sizeBytes: manifest.sizeBytes)
      } catch {
        outcome = .failed(reason: "\(error)")
      }
      post(.commit(Result(request: request, outcome: outcome)))
    }
  }

  func retain(keepLast: Int, keepEvery: Step?) {
    queue.async { [self] in
      do throws(CheckpointError) {
        let known = verified.withLock { $0 }
        let removed = try store.applyRetention(
          keepLast: keepLast, keepEvery: keepEvery, verified: known, fence: fence)
        post(.retained(removed: removed))
      } catch {
        post(.retentionFailed(reason: "\(error)"))
      }
    }
  }

  private func fence(_ change: () throws(CheckpointError) -> Void) throws(CheckpointError) {
    let result: Swift.Result<Void, CheckpointError>
    do throws(CoordinatorError) { result = try journal.exclusively(change) } catch {
      throw .notPermitted(reason: "\(error)")
    }
    try result.get()
  }

  package func drain() -> [Report] {
    reports.withLock { reports in
      defer { reports = [] }
      return reports
    }
  }

  /// Returns when nothing is under way.
  package func finish() { queue.sync {} }

  private func post(_ report: Report) {
    reports.withLock { $0.append(report) }
    wake()
  }
}
